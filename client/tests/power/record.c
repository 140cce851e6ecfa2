/* Records what one process does to the files of a folder, in order: loaded before its libraries, it appends each change
 * and each sync to the file named by FRAMECREW_RECORD, for all that lies in FRAMECREW_RECORDED. One thing at a time, so
 * that the order told is the order in which it was done. What goes through a memory map is not seen. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__x86_64__)
#define FIRST_ARGUMENT(context) ((context)->uc_mcontext.gregs[REG_RDI])
#define RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
#elif defined(__aarch64__)
#define FIRST_ARGUMENT(context) ((context)->uc_mcontext.regs[0])
#define RESULT(context) ((context)->uc_mcontext.regs[0])
#endif

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static int record = -1;
static char folder[PATH_MAX];

static int is_ours(const char *path) {
    size_t length = strlen(folder);
    return record >= 0 && strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

/* Whether a file is one of those that are recorded, and its name at this moment. */
static int is_ours_open(int file, char *name) {
    char link[32];
    if (record < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, name, PATH_MAX - 1);
    if (length < 0) return 0;
    name[length] = '\0';
    return is_ours(name);
}

static void tell(char what, const char *path, uint64_t offset, const void *data, size_t length) {
    uint64_t head[4] = {(uint64_t)what, strlen(path), offset, length};
    struct iovec parts[3] = {{head, sizeof head}, {(void *)path, head[1]}, {(void *)data, length}};
    /* Half a record would be taken for something else. */
    if (writev(record, parts, 3) != (ssize_t)(sizeof head + head[1] + length)) abort();
}

int openat(int at, const char *path, int flags, ...) {
    char name[PATH_MAX];
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    pthread_mutex_lock(&turn);
    int file = (int)syscall(SYS_openat, at, path, flags, mode);
    if (file >= 0 && flags & (O_CREAT | O_TRUNC) && is_ours_open(file, name)) {
        if (flags & O_CREAT) tell('c', name, 0, NULL, 0);
        if (flags & O_TRUNC) tell('t', name, 0, NULL, 0);
    }
    pthread_mutex_unlock(&turn);
    return file;
}

#define OPEN(function)                                                              \
    int function(const char *path, int flags, ...) {                                \
        va_list more;                                                               \
        va_start(more, flags);                                                      \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;     \
        va_end(more);                                                               \
        return openat(AT_FDCWD, path, flags, mode);                                 \
    }
OPEN(open)
OPEN(open64)

static ssize_t write_at(int file, const void *data, size_t length, off_t offset, int is_at) {
    char name[PATH_MAX];
    pthread_mutex_lock(&turn);
    ssize_t written = is_at ? syscall(SYS_pwrite64, file, data, length, offset) : syscall(SYS_write, file, data, length);
    if (written > 0 && is_ours_open(file, name)) {
        if (!is_at) offset = lseek(file, 0, SEEK_CUR) - written;
        tell('w', name, (uint64_t)offset, data, (size_t)written);
    }
    pthread_mutex_unlock(&turn);
    return written;
}

ssize_t write(int file, const void *data, size_t length) {
    char name[PATH_MAX];
    /* A pipe or a socket may take its time. */
    if (!is_ours_open(file, name)) return syscall(SYS_write, file, data, length);
    return write_at(file, data, length, 0, 0);
}
ssize_t pwrite(int file, const void *data, size_t length, off_t offset) { return write_at(file, data, length, offset, 1); }
ssize_t pwrite64(int file, const void *data, size_t length, off64_t offset) { return write_at(file, data, length, offset, 1); }

/* Makes a call, and tells of it where it succeeds and is about our files. */
#define CALL(what, path, offset, data, length, call)                                \
    pthread_mutex_lock(&turn);                                                      \
    int result = (int)(call);                                                       \
    if (result == 0 && is_ours(path)) tell(what, path, offset, data, length);       \
    pthread_mutex_unlock(&turn);                                                    \
    return result

#define CALL_OPEN(what, file, offset, call)                                         \
    char name[PATH_MAX] = "";                                                       \
    is_ours_open(file, name);                                                       \
    CALL(what, name, offset, NULL, 0, call)

int ftruncate(int file, off_t size) { CALL_OPEN('t', file, (uint64_t)size, syscall(SYS_ftruncate, file, size)); }
int ftruncate64(int file, off64_t size) { CALL_OPEN('t', file, (uint64_t)size, syscall(SYS_ftruncate, file, size)); }
int fsync(int file) { CALL_OPEN('s', file, 0, syscall(SYS_fsync, file)); }
int fdatasync(int file) { CALL_OPEN('s', file, 0, syscall(SYS_fdatasync, file)); }
int rename(const char *from, const char *to) {
    CALL('r', from, 0, to, strlen(to), syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}
int unlink(const char *path) { CALL('u', path, 0, NULL, 0, syscall(SYS_unlinkat, AT_FDCWD, path, 0)); }
int mkdir(const char *path, mode_t mode) { CALL('m', path, 0, NULL, 0, syscall(SYS_mkdirat, AT_FDCWD, path, mode)); }

/* syncfs is called without the C library: the kernel hands it over, and lets it through with this in an argument that
 * it does not read. */
#define LET_THROUGH 0x6672616d
static void on_syncfs(int number, siginfo_t *info, void *interrupted) {
    ucontext_t *context = interrupted;
    (void)number, (void)info;
    pthread_mutex_lock(&turn);
    long result = syscall(SYS_syncfs, FIRST_ARGUMENT(context), 0, 0, 0, 0, LET_THROUGH);
    RESULT(context) = result == 0 ? 0 : -errno;
    if (result == 0) tell('a', "", 0, NULL, 0);
    pthread_mutex_unlock(&turn);
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FRAMECREW_RECORD"), *recorded = getenv("FRAMECREW_RECORDED");
    if (!path || !recorded) return;
    snprintf(folder, sizeof folder, "%s", recorded);
    struct sigaction action = {.sa_sigaction = on_syncfs, .sa_flags = SA_SIGINFO};
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_syncfs, 0, 2),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, LET_THROUGH, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (file < 0 || sigaction(SIGSYS, &action, NULL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        perror("cannot record");
        abort();
    }
    record = file;
}
