// Two threads read 4 GiB once: what memory gives at most. gcc -O3 -march=native flat_read.c -o flat_read -lpthread
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const size_t BYTES = 4UL << 30;
static char *memory;

static void *read_half(void *half) {
    const char *from = memory + (uintptr_t)half * (BYTES / 2);
    __m512i sum = _mm512_setzero_si512();
    for (size_t at = 0; at < BYTES / 2; at += 256)
        for (size_t line = at; line < at + 256; line += 64) sum = _mm512_xor_si512(sum, _mm512_load_si512(from + line));
    return (void *)_mm512_reduce_add_epi64(sum);  // so that the loads are not left out
}

int main(void) {
    memory = aligned_alloc(64, BYTES);
    memset(memory, 1, BYTES);
    for (int run = 0; run < 3; run++) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        pthread_t threads[2];
        for (uintptr_t i = 0; i < 2; i++) pthread_create(&threads[i], NULL, read_half, (void *)i);
        for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%.1f GB/s\n", BYTES / ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)));
    }
}
