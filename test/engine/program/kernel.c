#include "engine.h"

static uint64_t mix(uint64_t hash, const uint64_t *words, size_t count) {
    for (size_t i = 0; i < count; i++) {
        hash ^= words[i];
        hash *= 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    return hash;
}

/* Reads all that the engine keeps for a sequence on a device, and writes one word to the cache and one to the compute buffer. */
void run_kernel(void *argument) {
    struct part *part = argument;
    struct slot *slot = part->slot;
    struct engine *engine = slot->engine;
    size_t cache_words = engine->sizes.cache / 8;
    uint64_t hash = part->compute[0];
    hash = mix(hash, engine->weights[part->device], engine->sizes.weights / 8);
    hash = mix(hash, part->cache, cache_words);
    for (int i = 0; i < CONSTANTS; i++)
        hash = mix(hash, engine->constants[part->device][i], engine->constant_words[i]);
    hash = mix(hash, part->scratch, part->scratch_words);
    part->cache[slot->position % cache_words] = hash;
    part->compute[1] = hash;
}
