/*
 * io-load FILE BLOCK DEPTH ORDER MILLISECONDS
 *
 * Reads FILE, a regular file or a block device, past the page cache with DEPTH
 * reads of BLOCK bytes under way, in an ORDER that is "random" or "sequential",
 * and prints how many ended and how many nanoseconds that took. Linux AIO by
 * its system calls (io_submit(2)), so that it needs no library in the guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_DEPTH 256
#define ALIGNMENT 4096

static size_t block;
static uint64_t blocks;
static int is_random;

static void fail(const char *what, int error)
{
    fprintf(stderr, "io-load: %s: %s\n", what, strerror(error));
    exit(1);
}

static long number(const char *text, long most)
{
    char *end;
    long value = strtol(text, &end, 10);

    if (*end || value < 1 || value > most) {
        fprintf(stderr, "io-load: %s is not a number from 1 to %ld\n", text, most);
        exit(2);
    }
    return value;
}

static uint64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * UINT64_C(1000000000) + time.tv_nsec;
}

/* Where the next read goes: xorshift64 for a random one, the same ones each time. */
static int64_t next_offset(void)
{
    static uint64_t state = UINT64_C(0x9e3779b97f4a7c15);
    static uint64_t position;

    if (!is_random) {
        return position++ % blocks * block;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % blocks * block;
}

static void submit(aio_context_t context, struct iocb **requests, long count)
{
    for (long i = 0; i < count; i++) {
        requests[i]->aio_offset = next_offset();
    }
    for (long done = 0; done < count;) {
        long taken = syscall(SYS_io_submit, context, count - done, requests + done);

        if (taken < 0) {
            fail("io_submit", errno);
        }
        done += taken;
    }
}

static long wait_for(aio_context_t context, long least, struct iocb **requests)
{
    struct io_event events[MAX_DEPTH];
    long count = syscall(SYS_io_getevents, context, least, MAX_DEPTH, events, NULL);

    if (count < 0) {
        fail("io_getevents", errno);
    }
    for (long i = 0; i < count; i++) {
        if (events[i].res != (int64_t)block) {
            fail("a read", events[i].res < 0 ? -events[i].res : EIO);
        }
        requests[i] = (struct iocb *)(uintptr_t)events[i].obj;
    }
    return count;
}

int main(int argc, char **argv)
{
    static struct iocb all[MAX_DEPTH];
    struct iocb *ready[MAX_DEPTH];
    aio_context_t context = 0;

    if (argc != 6) {
        fprintf(stderr, "usage: io-load FILE BLOCK DEPTH random|sequential MILLISECONDS\n");
        return 2;
    }
    block = number(argv[2], 1 << 24);
    long depth = number(argv[3], MAX_DEPTH);
    is_random = !strcmp(argv[4], "random");
    if (!is_random && strcmp(argv[4], "sequential")) {
        fprintf(stderr, "io-load: %s is not random or sequential\n", argv[4]);
        return 2;
    }
    uint64_t duration = number(argv[5], 1000000000) * UINT64_C(1000000);

    int fd = open(argv[1], O_RDONLY | O_DIRECT);
    if (fd < 0) {
        fail(argv[1], errno);
    }
    off_t size = lseek(fd, 0, SEEK_END);
    if (size < (off_t)block) {
        fail(argv[1], size < 0 ? errno : ENODATA);
    }
    blocks = size / block;
    if (syscall(SYS_io_setup, depth, &context) < 0) {
        fail("io_setup", errno);
    }
    for (long i = 0; i < depth; i++) {
        void *buffer = aligned_alloc(ALIGNMENT, (block + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);

        if (!buffer) {
            fail("a buffer", ENOMEM);
        }
        /* Its pages are there before the clock runs. */
        memset(buffer, 1, block);
        all[i].aio_lio_opcode = IOCB_CMD_PREAD;
        all[i].aio_fildes = fd;
        all[i].aio_buf = (uintptr_t)buffer;
        all[i].aio_nbytes = block;
        ready[i] = &all[i];
    }

    uint64_t start = now(), end = start, done = 0;
    long under_way = depth;

    submit(context, ready, depth);
    while (under_way) {
        long count = wait_for(context, 1, ready);

        done += count;
        end = now();
        if (end - start < duration) {
            submit(context, ready, count);
        } else {
            under_way -= count;
        }
    }
    printf("%llu %llu\n", (unsigned long long)done, (unsigned long long)(end - start));
    return 0;
}
