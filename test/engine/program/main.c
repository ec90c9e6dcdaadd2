/* engine [--backend library] [--port port] [--weights MiB] [--cache MiB] [--slots n]: commands on standard input, one a line, each answered by one
 * line. With --backend the engine's library is loaded as a plug-in is, with RTLD_LOCAL. With --port it also serves HTTP. */
#include "engine.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct backend *load_backend(const char *path) {
#ifdef ENGINE_LINKED
    (void)path;
    return engine_backend();
#else
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return NULL;
    }
    const struct backend *(*get)(void) = (const struct backend *(*)(void))dlsym(library, "engine_backend");
    return get == NULL ? NULL : get();
#endif
}

struct job {
    const struct backend *backend;
    struct engine *engine;
    int slot, tokens;
    char prompt[256], text[LONGEST_TEXT];
    aclError code;
    const char *failed;
};

static void *work(void *argument) {
    struct job *job = argument;
    job->code = job->backend->generate(job->engine, job->slot, job->prompt, job->tokens, job->text);
    job->failed = job->backend->failed_call();
    return NULL;
}

static void answer(aclError code, const char *call, const char *text) {
    if (code == 0)
        printf("ok %s\n", text);
    else
        printf("error %d %s\n", code, call == NULL ? "" : call);
    fflush(stdout);
}

/* "all <tokens> <prompt>": every slot at once, on a thread each; the texts in order. */
static void generate_on_all(const struct backend *backend, struct engine *engine, int tokens, const char *prompt) {
    static struct job jobs[SLOTS];
    static char texts[SLOTS * LONGEST_TEXT];
    pthread_t threads[SLOTS];
    texts[0] = 0;
    for (int i = 0; i < engine->sizes.slots; i++) {
        jobs[i] = (struct job){.backend = backend, .engine = engine, .slot = i, .tokens = tokens};
        snprintf(jobs[i].prompt, sizeof jobs[i].prompt, "%s%d", prompt, i);
        pthread_create(&threads[i], NULL, work, &jobs[i]);
    }
    struct job *failed = NULL;
    for (int i = 0; i < engine->sizes.slots; i++) {
        pthread_join(threads[i], NULL);
        if (jobs[i].code != 0) failed = &jobs[i];
        strcat(texts, jobs[i].text);
        strcat(texts, "|");
    }
    answer(failed == NULL ? 0 : failed->code, failed == NULL ? NULL : failed->failed, texts);
}

static int obey(const struct backend *backend, struct engine *engine, char *line) {
    char prompt[256] = "", what[32] = "";
    int slot, tokens;
    size_t offset;
    static char text[LONGEST_TEXT];
    if (sscanf(line, "generate %d %d %255s", &slot, &tokens, prompt) == 3) {
        aclError code = backend->generate(engine, slot, prompt, tokens, text);
        answer(code, backend->failed_call(), text);
    } else if (sscanf(line, "all %d %255s", &tokens, prompt) == 2) {
        generate_on_all(backend, engine, tokens, prompt);
    } else if (sscanf(line, "poke %31s %zu", what, &offset) == 2) {
        answer(backend->poke(engine, what, offset), backend->failed_call(), "");
    } else if (strncmp(line, "close", 5) == 0) {
        answer(backend->close(engine), backend->failed_call(), "");
    } else if (strncmp(line, "open", 4) == 0) {
        struct sizes sizes = engine->sizes;
        answer(backend->open(engine, &sizes), backend->failed_call(), "");
    } else if (strncmp(line, "quit", 4) == 0) {
        return 0;
    } else if (strncmp(line, "faults", 6) == 0) { /* the emulator's; restarts its counters */
        int (*set)(const char *) = (int (*)(const char *))dlsym(RTLD_DEFAULT, "camem_emulator_set_faults");
        line[strcspn(line, "\n")] = 0;
        answer(set == NULL ? -1 : set(line[6] == 0 ? "" : line + 7), "camem_emulator_set_faults", "");
    } else if (sscanf(line, "count %63s", prompt) == 1) {
        uint64_t (*count)(const char *) = (uint64_t (*)(const char *))dlsym(RTLD_DEFAULT, "camem_emulator_call_count");
        snprintf(text, sizeof text, "%llu", count == NULL ? 0ull : (unsigned long long)count(prompt));
        answer(count == NULL ? -1 : 0, "camem_emulator_call_count", text);
    } else {
        answer(-1, "unknown command", "");
    }
    return 1;
}

int main(int count, char **arguments) {
    static struct engine engine;
    const char *library = NULL;
    struct sizes sizes = {3 << 20, 1 << 20, 3 << 19, SLOTS};
    int port = 0;
    for (int i = 1; i + 1 < count; i += 2) {
        if (strcmp(arguments[i], "--backend") == 0) library = arguments[i + 1];
        if (strcmp(arguments[i], "--port") == 0) port = atoi(arguments[i + 1]);
        if (strcmp(arguments[i], "--weights") == 0) sizes.weights = (size_t)atoi(arguments[i + 1]) << 20;
        if (strcmp(arguments[i], "--slots") == 0) sizes.slots = atoi(arguments[i + 1]);
        if (strcmp(arguments[i], "--cache") == 0) sizes.cache = (size_t)atoi(arguments[i + 1]) << 20;
    }
    const struct backend *backend = load_backend(library);
    if (backend == NULL) return 1;
    aclError code = backend->open(&engine, &sizes);
    answer(code, backend->failed_call(), "ready");
    if (code != 0) return 1;
    if (port > 0) return serve(backend, &engine, port);
    char line[512];
    while (fgets(line, sizeof line, stdin) != NULL && obey(backend, &engine, line)) continue;
    return 0;
}
