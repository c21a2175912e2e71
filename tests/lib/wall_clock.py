"""A wall clock that tests may step, for processes that are started under it.

    with WallClock() as clock, Suite(wrap=clock.wrap) as suite:
        clock.step(-3600)

Only CLOCK_REALTIME moves; the boot time and the monotonic clock stay what they are.
"""
import mmap
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile

SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t nothing;
static const volatile int64_t *seconds = &nothing;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("WALL_CLOCK_OFFSET");
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);

    if (page != MAP_FAILED)
        seconds = page;
    if (fd >= 0)
        close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *out)
{
    long failed = syscall(SYS_clock_gettime, clock, out);

    if (failed == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        out->tv_sec += *seconds;
    return (int)failed;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    struct timespec now;

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL)
        *out = now.tv_sec;
    return now.tv_sec;
}
"""


class WallClock:
    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="vicinal-clock-"))
        (self.folder / "clock.c").write_text(SOURCE)
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-o", self.folder / "clock.so",
                        self.folder / "clock.c"], check=True)
        self.file = open(self.folder / "offset", "w+b")
        self.file.write(bytes(8))
        self.file.flush()
        self.page = mmap.mmap(self.file.fileno(), 8)
        return self

    def __exit__(self, *_):
        self.page.close()
        self.file.close()
        shutil.rmtree(self.folder)

    @property
    def wrap(self):
        """Words to put before a command.  A sanitizer wants to come first, and need not."""
        options = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "verify_asan_link_order=0"]))
        return ["env", f"LD_PRELOAD={self.folder / 'clock.so'}", f"WALL_CLOCK_OFFSET={self.folder / 'offset'}",
                f"ASAN_OPTIONS={options}"]

    def step(self, seconds):
        """From now on the clock is that many seconds beside the true one."""
        self.page[:] = struct.pack("<q", seconds)
