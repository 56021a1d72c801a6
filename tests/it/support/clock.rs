//! Clocks that are wrong: a library that is loaded before a program and answers with another time
//! than the kernel's. The monotonic clock stays as it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::command::{program, run};

const SOURCE: &str = "
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *out) {
    int (*next)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, \"clock_gettime\");
    int result = next(id, out);
    const char *seconds = getenv(\"CLOCK_SECONDS\");
    if (result == 0 && id == CLOCK_REALTIME && seconds) out->tv_sec = atoll(seconds);
    return result;
}
int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
";

/// The library, made on the spot.
pub struct Clock {
    library: PathBuf,
}

impl Clock {
    /// Makes it in `folder`.
    #[track_caller]
    pub fn new(folder: &Path) -> Self {
        let (library, source) = (folder.join("clock.so"), folder.join("clock.c"));
        std::fs::write(&source, SOURCE).unwrap();
        run(program("cc", folder).args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl"))
            .ok();
        Self { library }
    }

    /// The library, for whoever wants to let others read it.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Has `command` think that it is so many seconds after 1970, and stays so.
    pub fn set<'c>(&self, command: &'c mut Command, seconds: i64) -> &'c mut Command {
        command.env("LD_PRELOAD", &self.library).env("CLOCK_SECONDS", seconds.to_string())
    }
}
