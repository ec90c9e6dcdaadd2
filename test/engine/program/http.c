/* A completion endpoint: GET /health, GET /v1/models, and POST /v1/completions with "prompt", "max_tokens" and "stream". One connection
 * a request. SIGTERM stops accepting, finishes requests in progress, closes the engine and exits with 0. */
#include "engine.h"
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define LONGEST_REQUEST 65536

struct server {
    const struct backend *backend;
    struct engine *engine;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int busy[SLOTS], requests;
};

struct connection {
    struct server *server;
    int socket;
};

static volatile sig_atomic_t stopping;
static int listener = -1;

static void stop(int signal_number) {
    (void)signal_number;
    stopping = 1;
    shutdown(listener, SHUT_RDWR);
}

static int take_slot(struct server *server) {
    int slot = -1;
    pthread_mutex_lock(&server->mutex);
    while (slot < 0) {
        for (int i = 0; i < server->engine->sizes.slots && slot < 0; i++)
            if (!server->busy[i]) slot = i;
        if (slot < 0) pthread_cond_wait(&server->changed, &server->mutex);
    }
    server->busy[slot] = 1;
    pthread_mutex_unlock(&server->mutex);
    return slot;
}

static void give_slot(struct server *server, int slot) {
    pthread_mutex_lock(&server->mutex);
    server->busy[slot] = 0;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->mutex);
}

static void send_all(int socket, const char *text, size_t length) {
    while (length > 0) {
        ssize_t sent = send(socket, text, length, MSG_NOSIGNAL);
        if (sent <= 0) return;
        text += sent;
        length -= (size_t)sent;
    }
}

static void reply(int socket, const char *status, const char *type, const char *body) {
    char head[256];
    int length = snprintf(head, sizeof head,
                          "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", status,
                          type, strlen(body));
    send_all(socket, head, (size_t)length);
    send_all(socket, body, strlen(body));
}

static void prompt_of(const char *body, char *prompt, size_t room) {
    const char *found = strstr(body, "\"prompt\"");
    prompt[0] = 0;
    if (found == NULL || (found = strchr(found + 8, '"')) == NULL) return;
    size_t length = strcspn(found + 1, "\"");
    if (length >= room) length = room - 1;
    memcpy(prompt, found + 1, length);
    prompt[length] = 0;
}

static int number_of(const char *body, const char *name, int otherwise) {
    const char *found = strstr(body, name);
    if (found == NULL || (found = strchr(found, ':')) == NULL) return otherwise;
    return atoi(found + 1);
}

static void fail(int socket, const struct backend *backend, aclError code) {
    char body[512];
    snprintf(body, sizeof body, "{\"error\":{\"code\":%d,\"call\":\"%.300s\"}}", code, backend->failed_call());
    reply(socket, "500 Internal Server Error", "application/json", body);
}

static void stream(struct connection *connection, int slot, const char *prompt, int tokens) {
    struct server *server = connection->server;
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    char text[LONGEST_TEXT], event[256];
    send_all(connection->socket, head, sizeof head - 1);
    for (int i = 0; i < tokens; i++) {
        aclError code = server->backend->generate(server->engine, slot, i == 0 ? prompt : text, 1, text);
        int length = snprintf(event, sizeof event, "data: {\"choices\":[{\"text\":\"%.1s\"}],\"code\":%d}\n\n", text, code);
        send_all(connection->socket, event, (size_t)length);
        if (code != 0) return;
    }
    send_all(connection->socket, "data: [DONE]\n\n", 14);
}

static void complete(struct connection *connection, const char *body) {
    struct server *server = connection->server;
    char prompt[256], text[LONGEST_TEXT], answer[LONGEST_TEXT + 256];
    prompt_of(body, prompt, sizeof prompt);
    int tokens = number_of(body, "\"max_tokens\"", 16);
    int slot = take_slot(server);
    if (strstr(body, "\"stream\":true") != NULL || strstr(body, "\"stream\": true") != NULL) {
        stream(connection, slot, prompt, tokens);
    } else {
        aclError code = server->backend->generate(server->engine, slot, prompt, tokens, text);
        if (code != 0) {
            fail(connection->socket, server->backend, code);
        } else {
            snprintf(answer, sizeof answer, "{\"object\":\"text_completion\",\"choices\":[{\"index\":0,\"text\":\"%s\"}]}", text);
            reply(connection->socket, "200 OK", "application/json", answer);
        }
    }
    give_slot(server, slot);
}

static int is_whole(const char *request) {
    const char *end = strstr(request, "\r\n\r\n");
    if (end == NULL) return 0;
    const char *length = strcasestr(request, "content-length:");
    return length == NULL || length > end || strlen(end + 4) >= (size_t)atoi(length + 15);
}

/* A client may connect and send nothing, which must not keep the server from ending. */
static const struct timeval longest_silence = {.tv_sec = 2};

static void handle(struct connection *connection) {
    setsockopt(connection->socket, SOL_SOCKET, SO_RCVTIMEO, &longest_silence, sizeof longest_silence);
    char *request = calloc(1, LONGEST_REQUEST);
    size_t used = 0;
    while (request != NULL && used < LONGEST_REQUEST - 1 && !is_whole(request)) {
        ssize_t got = recv(connection->socket, request + used, LONGEST_REQUEST - 1 - used, 0);
        if (got <= 0) break;
        used += (size_t)got;
    }
    if (request == NULL || !is_whole(request)) {
        free(request);
        return;
    }
    if (strncmp(request, "GET /health", 11) == 0)
        reply(connection->socket, "200 OK", "application/json", "{\"status\":\"ok\"}");
    else if (strncmp(request, "GET /v1/models", 14) == 0)
        reply(connection->socket, "200 OK", "application/json",
              "{\"object\":\"list\",\"data\":[{\"id\":\"test-engine\",\"object\":\"model\"}]}");
    else if (strncmp(request, "POST /v1/completions", 20) == 0 || strncmp(request, "POST /completion", 16) == 0)
        complete(connection, strstr(request, "\r\n\r\n") + 4);
    else
        reply(connection->socket, "404 Not Found", "application/json", "{\"error\":{\"message\":\"no such route\"}}");
    free(request);
}

static void *run_connection(void *argument) {
    struct connection *connection = argument;
    struct server *server = connection->server;
    handle(connection);
    close(connection->socket);
    free(connection);
    pthread_mutex_lock(&server->mutex);
    server->requests--;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->mutex);
    return NULL;
}

static int listen_on(int port) {
    struct sockaddr_in address = {0};
    int yes = 1;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0) return -1;
    return listen(listener, 64);
}

static void accept_all(struct server *server) {
    while (!stopping) {
        int client = accept(listener, NULL, NULL);
        if (client < 0) continue;
        struct connection *connection = malloc(sizeof *connection);
        pthread_t thread;
        *connection = (struct connection){server, client};
        pthread_mutex_lock(&server->mutex);
        server->requests++;
        pthread_mutex_unlock(&server->mutex);
        pthread_create(&thread, NULL, run_connection, connection);
        pthread_detach(thread);
    }
}

int serve(const struct backend *backend, struct engine *engine, int port) {
    static struct server server = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct sigaction action = {0};
    server.backend = backend;
    server.engine = engine;
    action.sa_handler = stop;
    sigaction(SIGTERM, &action, NULL);
    if (listen_on(port) != 0) {
        perror("listen");
        return 1;
    }
    printf("ok listening on %d\n", port);
    fflush(stdout);
    accept_all(&server);
    pthread_mutex_lock(&server.mutex);
    while (server.requests > 0) pthread_cond_wait(&server.changed, &server.mutex);
    pthread_mutex_unlock(&server.mutex);
    return backend->close(engine) == 0 ? 0 : 1;
}
