// gantry-shim: parent of one container or exec. It prepares a sandbox, starts a process in it by the
// engine's plan, owns its streams, and writes down how it ended; it needs no engine for any of that.
// Single-threaded, no heap: one of these is resident for every container.
#include "core/runtime/shim/streams.h"

#include <initializer_list>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

namespace gantry::shim {
namespace {

int epoll_fd, signal_fd, child_socket = -1, child_pidfd = -1, target_pidfd = -1, netns_fd = -1;
constexpr int kEngines = 8;
int engines[kEngines];
pid_t child; // the process that prepare() forked; with an external runtime only until start
bool running, ended, exec_mode, external;
const char *prepare_plan, *start_plan;
size_t start_plan_size;
int start_engine = -1;
StreamSetup setup;
int child_ends[3] = {-1, -1, -1};
int64_t finish_deadline;
char text_buffer[plan::kMaxText + 1];

int64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return int64_t(now.tv_sec) * 1000000000 + now.tv_nsec;
}

plan::View options() {
    plan::Cursor c(start_plan, plan::kOptions);
    c.next();
    return c.view();
}

void answer(int fd, uint32_t command, uint32_t a = 0, uint32_t b = 0, const char *text = nullptr) {
    plan::Message message = {};
    message.command = command;
    message.a = a, message.b = command == plan::kFailed ? b : uint32_t(exec_mode);
    message.length = text ? uint32_t(strlen(text)) : 0;
    int fds[2] = {child_pidfd, netns_fd};
    bool with = command == plan::kReady || command == plan::kStarted;
    // Peer credentials of the control socket are those of the engine that made it.
    if (with) message.time_ns = getpid();
    send_message(fd, message, text, fds, !with || child_pidfd < 0 ? 0 : netns_fd >= 0 ? 2 : 1);
}

const char *map_plan(int fd, size_t &size, bool whole) {
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0 || status.st_size <= 0 || status.st_size > plan::kMaxSize)
        return nullptr;
    size = size_t(status.st_size);
    char *bytes = (char *)mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED) return nullptr;
    return plan::valid(bytes, size, whole) ? bytes : nullptr;
}

bool read_small(const char *path, char *buffer, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, buffer, size - 1);
    close(fd);
    buffer[n > 0 ? n : 0] = 0;
    return n > 0;
}

uint64_t number_after(const char *text, const char *word) {
    const char *p = text ? strstr(text, word) : nullptr;
    uint64_t value = 0;
    for (p = p ? p + strlen(word) : ""; *p >= '0' && *p <= '9'; p++)
        value = value * 10 + uint64_t(*p - '0');
    return value;
}

// ---- cgroups ----

bool oom_killed() {
    static char content[1024];
    for (plan::Cursor c(prepare_plan, plan::kCgroupDir); c.next();) {
        Path path;
        path.add(c.view().text(0)).add("/memory.oom_control");
        if (read_small(path.c(), content, sizeof content) && number_after(content, "oom_kill ") > 0)
            return true;
        path = Path();
        path.add(c.view().text(0)).add("/memory.events");
        if (read_small(path.c(), content, sizeof content) && number_after(content, "oom_kill ") > 0)
            return true;
    }
    return false;
}

void kill_leftovers() {
    static char content[8192];
    plan::Cursor c(prepare_plan, plan::kCgroupDir);
    if (exec_mode || !c.next()) return;
    Path path;
    path.add(c.view().text(0)).add("/cgroup.kill");
    if (write_file(path.c(), "1", 1)) return;
    path = Path();
    path.add(c.view().text(0)).add("/cgroup.procs");
    for (int round = 0; round < 100 && read_small(path.c(), content, sizeof content); round++) {
        for (const char *p = content; *p;) {
            pid_t pid = 0;
            while (*p >= '0' && *p <= '9')
                pid = pid * 10 + (*p++ - '0');
            while (*p && (*p < '0' || *p > '9'))
                p++;
            if (pid > 1 && pid != getpid()) kill(pid, SIGKILL);
        }
        struct timespec pause = {0, 2000000};
        nanosleep(&pause, nullptr);
        while (waitpid(-1, nullptr, WNOHANG) > 0) {
        }
    }
}

/// Below a cgroup there are only files of the kernel and directories of the container.
bool remove_cgroup(const char *path, int depth) {
    if (rmdir(path) == 0 || errno == ENOENT) return true;
    int fd = depth < 16 ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0) return false;
    char entries[2048];
    long n;
    while ((n = syscall(SYS_getdents64, fd, entries, sizeof entries)) > 0)
        for (long at = 0; at < n;) {
            const char *entry = entries + at;
            unsigned short length;
            memcpy(&length, entry + 16, 2);
            const char *name = entry + 19;
            if (entry[18] == 4 && strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
                Path below;
                remove_cgroup(below.add(path).add("/").add(name).c(), depth + 1);
            }
            at += length;
        }
    close(fd);
    return rmdir(path) == 0;
}

bool remove_cgroups() {
    bool all = true;
    for (plan::Cursor c(prepare_plan, plan::kCgroupDir); !exec_mode && c.next();)
        all &= remove_cgroup(c.view().text(0), 0);
    return all;
}

void remove_cgroups_patiently() {
    // A killed process leaves its cgroup only when it has been torn down.
    for (int i = 0; i < 200 && !remove_cgroups(); i++) {
        struct timespec pause = {0, 5000000};
        nanosleep(&pause, nullptr);
    }
}

// ---- ends ----

[[noreturn]] void give_up() {
    if (child > 0 && !running) kill(child, SIGKILL);
    if (child > 0) waitpid(child, nullptr, 0);
    if (prepare_plan) kill_leftovers(), remove_cgroups_patiently();
    _exit(1);
}

[[noreturn]] void fail_start(uint32_t error_class, int error, const char *text) {
    plan::Message message = {};
    message.command = plan::kFailed;
    message.a = error_class, message.b = uint32_t(error);
    message.length = uint32_t(strlen(text));
    if (child > 0) kill(child, SIGKILL), waitpid(child, nullptr, 0);
    child = 0;
    if (prepare_plan) kill_leftovers(), remove_cgroups_patiently();
    send_message(start_engine, message, text, nullptr, 0);
    _exit(1);
}

[[noreturn]] void fail_start(int error, const char *what, const char *object) {
    Text text;
    text.add(what).add(" ").add(object).add(": ");
    add_error(text, error);
    fail_start(kClassInternal, error, text.c());
}

/// The record's descriptor, to be synced once the engine knows: a disk flush costs more than all the rest.
int record_exit(int status, bool oom, int64_t time_ns) {
    const char *path = options().text(plan::kExitPath);
    if (!*path) return -1;
    TextBuffer<256> text;
    text.add("code=").number(unsigned(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)));
    text.add("\nsignal=").number(unsigned(WIFSIGNALED(status) ? WTERMSIG(status) : 0));
    text.add("\noom_killed=").number(oom).add("\nfinished_ns=").number(uint64_t(time_ns)).add("\n");
    Path temporary;
    temporary.add(path).add(".tmp");
    int fd = open(temporary.c(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return -1;
    if (write(fd, text.c(), text.size) == ssize_t(text.size)) rename(temporary.c(), path);
    return fd;
}

int exit_status;
bool oom;

void process_ended(int status) {
    ended = true;
    exit_status = status;
    oom = !exec_mode && oom_killed();
    kill_leftovers();
    streams_finish();
    int64_t now = now_ns(CLOCK_REALTIME);
    int record = record_exit(status, oom, now);
    bool clean = remove_cgroups();
    plan::Message message = {};
    message.command = plan::kExited;
    message.a = uint32_t(status), message.b = oom, message.time_ns = now;
    for (int fd : engines)
        if (fd >= 0) send_message(fd, message, nullptr, nullptr, 0);
    if (record >= 0) fsync(record), close(record);
    if (!clean) remove_cgroups_patiently();
    finish_deadline = now_ns(CLOCK_MONOTONIC) + 30000000000;
}

void reap() {
    struct signalfd_siginfo info;
    while (read(signal_fd, &info, sizeof info) > 0) {
    }
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid != child) continue;
        if (running) {
            child = 0;
            process_ended(status);
        } else if (start_engine < 0 || child_socket < 0) {
            child = 0;
            give_up();
        } else {
            child = 0; // its message or end of file on the socket follows
            exit_status = status;
            ended = true;
        }
    }
}

// ---- commands ----

/// The cgroup of version 2 to be in, or -1.
int unified_group() {
    for (plan::Cursor c(prepare_plan, plan::kCgroupDir); c.next();) {
        int fd = open(c.view().text(0), O_PATH | O_DIRECTORY | O_CLOEXEC);
        struct statfs fs;
        if (fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == 0x63677270) return fd;
        if (fd >= 0) close(fd);
    }
    return -1;
}

void prepare(int engine, int *fds) {
    size_t size;
    prepare_plan = map_plan(fds[0], size, false);
    close(fds[0]);
    if (!prepare_plan) _exit(2);
    start_engine = engine;
    target_pidfd = fds[1];
    exec_mode = target_pidfd >= 0;
    // The process id namespace counts for children only; the shim itself stays outside.
    if (exec_mode && setns(target_pidfd, CLONE_NEWPID) != 0)
        fail_start(errno, "join", "the container's processes");
    uint64_t flags = 0;
    bool own_net = false;
    for (plan::Cursor c(prepare_plan, plan::kNamespace); c.next();) {
        const char *path = c.view().text(0);
        uint64_t flag = c.view().number(0);
        // The mount namespace is made at the start: a copy that waits would miss what the host mounts
        // meanwhile, and keep busy what it unmounts.
        if (!*path && flag != CLONE_NEWCGROUP && flag != CLONE_NEWNS)
            flags |= flag, own_net |= flag == CLONE_NEWNET;
        if (*path && flag == CLONE_NEWPID) {
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            if (fd < 0 || setns(fd, CLONE_NEWPID) != 0) fail_start(errno, "join namespace", path);
            close(fd);
        }
    }
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        fail_start(errno, "make", "socket pair");
    struct clone_args clone = {};
    clone.flags = flags | CLONE_PIDFD;
    clone.pidfd = uint64_t(uintptr_t(&child_pidfd));
    clone.exit_signal = SIGCHLD;
    // Born in its cgroup, a process does not pay for being moved there; only version 2 can do that.
    int group = unified_group();
    if (group >= 0) {
        clone.flags |= CLONE_INTO_CGROUP;
        clone.cgroup = uint64_t(group);
        child = pid_t(syscall(SYS_clone3, &clone, sizeof clone));
        if (child < 0) clone.flags &= ~CLONE_INTO_CGROUP, clone.cgroup = 0, close(group), group = -1;
    }
    if (group < 0) child = pid_t(syscall(SYS_clone3, &clone, sizeof clone));
    if (child < 0 && errno == ENOSYS) // seccomp of an outer container hides clone3
        child = pid_t(syscall(SYS_clone, flags | CLONE_PIDFD | SIGCHLD, nullptr, &child_pidfd, nullptr, 0));
    if (child < 0) fail_start(errno, "make", "namespaces");
    if (child == 0) {
        // The supervisor's ends must not live on in the child: they would hide the supervisor's death.
        for (int fd : engines)
            if (fd >= 0) close(fd);
        for (int fd : {plan::kListenFd, epoll_fd, signal_fd, pair[0]})
            close(fd);
        if (group >= 0) close(group);
        child_main({prepare_plan, pair[1], target_pidfd, group >= 0});
    }
    if (group >= 0) close(group);
    close(pair[1]);
    child_socket = pair[0];
    if (own_net) {
        Path path;
        path.add("/proc/").number(unsigned(child)).add("/ns/net");
        netns_fd = open(path.c(), O_RDONLY | O_CLOEXEC);
    }
    watch(child_socket, EPOLLIN, kTagChild, true);
}

void make_streams(const plan::View &option) {
    uint64_t flags = option.number(plan::kFlags);
    setup.terminal = flags & plan::kTerminal;
    setup.stdin_once = flags & plan::kStdinOnce;
    setup.exec = exec_mode;
    if (setup.terminal) return;
    int pipes[2];
    if (flags & plan::kOpenStdin) {
        if (pipe2(pipes, O_CLOEXEC) != 0) fail_start(errno, "make", "pipe");
        child_ends[0] = pipes[0], setup.in = pipes[1];
    } else {
        child_ends[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    for (int i = 1; i < 3; i++) {
        if (pipe2(pipes, O_CLOEXEC) != 0) fail_start(errno, "make", "pipe");
        child_ends[i] = pipes[1];
        (i == 1 ? setup.out : setup.err) = pipes[0];
    }
}

void write_cgroups() {
    for (plan::Cursor c(start_plan, plan::kCgroupFile); c.next();) {
        const char *path = c.view().text(0), *value = c.view().text(1);
        if (!write_file(path, value, strlen(value)) && c.view().number(0)) {
            Text what;
            what.add("\"").add(value).add("\" to ").add(path);
            fail_start(errno, "write", what.c());
        }
    }
}

void child_ends_close() {
    for (int &fd : child_ends)
        if (fd >= 0) close(fd), fd = -1;
}

/// Runs the external runtime and waits for it; its own text ends up in the bundle's log.
int run_runtime(const char *const *argv, bool with_streams) {
    pid_t pid = fork();
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, nullptr);
        if (with_streams) {
            if (unshare(CLONE_NEWNS) != 0 || mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
                _exit(125);
            Path root;
            root.add(options().text(plan::kBundle)).add("/rootfs");
            mount_rootfs(start_plan, root.c());
            for (int i = 0; i < 3; i++)
                if (child_ends[i] >= 0) dup2(child_ends[i], i);
        }
        execve(argv[0], const_cast<char **>(argv), ::environ);
        _exit(127);
    }
    int status = 0;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return pid < 0 ? -1 : status;
}

/// A socket in the bundle to which the runtime sends the terminal. sun_path holds 108 bytes and a bundle's
/// path may be longer, so both sides name it through our descriptor of that directory.
int console_socket(const char *bundle, Path &path) {
    int dir = open(bundle, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un_short {
        unsigned short family;
        char name[108];
    } address = {AF_UNIX, {}};
    path.add("/proc/").number(unsigned(getpid())).add("/fd/").number(unsigned(dir)).add("/console.sock");
    memcpy(address.name, path.c(), path.size + 1);
    unlink(path.c());
    if (dir < 0 || fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1) != 0)
        fail_start(errno, "make", "console socket");
    return fd;
}

/// The last message of a runtime's log: time="..." level=error msg="...". Its text, in place.
const char *last_message(char *log) {
    char *found = nullptr;
    for (char *p = log; (p = strstr(p, "msg=\"")); p += 5)
        found = p + 5;
    if (!found) return log;
    char *to = found;
    for (const char *p = found; *p && *p != '"'; p++) {
        if (*p == '\\' && p[1]) p++;
        *to++ = *p == '\n' ? ' ' : *p;
    }
    *to = 0;
    return found;
}

void start_external() {
    plan::View option = options();
    external = true;
    // The waiting child only held the namespaces; the runtime gets them by path.
    int holder_status;
    if (child > 0) kill(child, SIGKILL), waitpid(child, &holder_status, 0);
    unwatch(child_socket), close(child_socket);
    child_socket = -1, child = 0;
    const char *bundle = option.text(plan::kBundle), *runtime = option.text(plan::kRuntime);
    Path pid_file, log_file, console;
    pid_file.add(bundle).add("/pid");
    log_file.add(bundle).add("/runtime.log");
    unlink(pid_file.c());
    int listener = setup.terminal ? console_socket(bundle, console) : -1;
    const char *create[] = {runtime,
                            "--log",
                            log_file.c(),
                            "create",
                            "--bundle",
                            bundle,
                            "--pid-file",
                            pid_file.c(),
                            setup.terminal ? "--console-socket" : option.text(plan::kId),
                            setup.terminal ? console.c() : nullptr,
                            setup.terminal ? option.text(plan::kId) : nullptr,
                            nullptr};
    const char *start[] = {runtime, "--log", log_file.c(), "start", option.text(plan::kId), nullptr};
    const char *remove[] = {runtime, "--log", log_file.c(), "delete", "--force", option.text(plan::kId),
                            nullptr};
    static char content[3000];
    int status = run_runtime(create, true);
    if (status == 0 && setup.terminal) {
        int connection = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        struct iovec part = {content, sizeof content};
        char space[CMSG_SPACE(sizeof(int))];
        struct msghdr header = {};
        header.msg_iov = &part, header.msg_iovlen = 1;
        header.msg_control = space, header.msg_controllen = sizeof space;
        if (recvmsg(connection, &header, MSG_CMSG_CLOEXEC) > 0 && CMSG_FIRSTHDR(&header)) {
            memcpy(&setup.out, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof(int));
            setup.in = setup.out;
        }
        close(connection), close(listener), unlink(console.c());
        if (setup.out < 0) status = -1;
    }
    child_ends_close();
    if (status == 0 && read_small(pid_file.c(), content, sizeof content))
        child = pid_t(number_after(content, ""));
    if (child > 0) {
        close(child_pidfd);
        child_pidfd = int(syscall(SYS_pidfd_open, child, 0));
        status = run_runtime(start, false);
    }
    if (status != 0 || child <= 0) {
        Text text;
        bool found = read_small(log_file.c(), content, sizeof content);
        text.add("run ").add(runtime).add(": ").add(found ? last_message(content) : "it gave no reason");
        run_runtime(remove, false);
        child = 0;
        fail_start(kClassInvalid, 0, text.c());
    }
}

void started() {
    running = true;
    if (child_socket >= 0) unwatch(child_socket), close(child_socket);
    child_socket = -1;
    child_ends_close();
    streams_start(setup);
    answer(start_engine, plan::kStarted, uint32_t(child));
    if (ended) { // died between execve and here, or in set-up by a signal
        int status = exit_status;
        process_ended(status);
    }
}

void start(int engine, int plan_fd) {
    if (start_plan || child_socket < 0) return;
    start_engine = engine;
    start_plan = map_plan(plan_fd, start_plan_size, true);
    if (!start_plan) fail_start(kClassInternal, EINVAL, "read start plan: malformed");
    plan::View option = options();
    log_open(option.text(plan::kLogPath), option.number(plan::kLogMaxSize),
             uint32_t(option.number(plan::kLogMaxFiles)));
    make_streams(option);
    if (*option.text(plan::kRuntime)) {
        close(plan_fd);
        start_external();
        started();
        return;
    }
    write_cgroups();
    plan::Message message = {};
    message.command = plan::kStart;
    int fds[4] = {plan_fd, child_ends[0], child_ends[1], child_ends[2]};
    if (!send_message(child_socket, message, nullptr, fds, setup.terminal ? 1 : 4))
        fail_start(errno, "release", "the sandbox");
    close(plan_fd);
    child_ends_close();
}

void child_event() {
    plan::Message message;
    int fds[8];
    ssize_t n = receive_message(child_socket, message, text_buffer, fds, 0);
    if (n > 0 && message.command == 'R') return answer(start_engine, plan::kReady, uint32_t(child));
    if (n > 0 && message.command == 'T') {
        setup.in = setup.out = fds[0];
        return;
    }
    if (n > 0 && message.command == 'E') fail_start(message.a, int(message.b), text_buffer);
    if (!start_plan) {
        start_engine >= 0 ? fail_start(kClassInternal, 0, "prepare sandbox: its first process died")
                          : give_up();
    }
    started();
}

void engine_event(int index) {
    int fd = engines[index];
    plan::Message message;
    int fds[8];
    ssize_t n = receive_message(fd, message, text_buffer, fds, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        unwatch(fd), close(fd);
        engines[index] = -1;
        // Nobody else knows of a sandbox that was not started.
        if (!start_plan) give_up();
        if (start_engine == fd) start_engine = -1;
        return;
    }
    bool kept = false;
    switch (message.command) {
    case plan::kPrepare:
        if (!prepare_plan) prepare(fd, fds), kept = true;
        break;
    case plan::kStart: start(fd, fds[0]), kept = true; break;
    case plan::kAttach:
        if (fds[0] >= 0) kept = streams_attach(fds[0], message.a, text_buffer, message.length);
        break;
    case plan::kResize: {
        struct winsize size = {(unsigned short)message.a, (unsigned short)message.b, 0, 0};
        if (streams_terminal() >= 0) ioctl(streams_terminal(), TIOCSWINSZ, &size);
        break;
    }
    case plan::kKill:
        // The group's number cannot have been reused: its leader is ours to reap.
        if (message.b && child > 0 && !ended)
            kill(-child, int(message.a));
        else if (child_pidfd >= 0 && !ended)
            syscall(SYS_pidfd_send_signal, child_pidfd, message.a, nullptr, 0);
        break;
    case plan::kStatus:
        answer(fd, running && !ended ? plan::kStarted : plan::kFailed, uint32_t(child));
        break;
    case plan::kEnd:
        if (!start_plan) give_up();
        break;
    default: break;
    }
    for (int i = 0; i < 8 && !kept; i++)
        if (fds[i] >= 0) close(fds[i]);
}

void add_engine(int fd) {
    for (int i = 0; i < kEngines; i++)
        if (engines[i] < 0) {
            engines[i] = fd;
            watch(fd, EPOLLIN, kTagEngine + uint32_t(i), true);
            return;
        }
    close(fd);
}

void loop() {
    struct epoll_event events[16];
    for (;;) {
        if (ended && running && streams_done()) break;
        int timeout = ended && running ? 1000 : -1;
        int n = epoll_wait(epoll_fd, events, 16, timeout);
        if (ended && running && now_ns(CLOCK_MONOTONIC) > finish_deadline) streams_abort();
        bool reaped = false;
        for (int i = 0; i < n; i++) {
            uint32_t tag = events[i].data.u32;
            if (tag >= kTagEngine)
                engine_event(int(tag - kTagEngine));
            else if (tag >= kTagOut && tag != kTagTimer) {
                streams_event(tag, events[i].events);
                if (ended) finish_deadline = now_ns(CLOCK_MONOTONIC) + 30000000000;
            } else if (tag == kTagChild && child_socket >= 0)
                child_event();
            else if (tag == kTagSignal)
                reaped = true;
            else if (tag == kTagListen) {
                int fd = accept4(plan::kListenFd, nullptr, nullptr, SOCK_CLOEXEC);
                if (fd >= 0) add_engine(fd);
            }
        }
        if (reaped) reap(); // after the socket: an exit must not overtake its own "started"
    }
    if (external) {
        Path log_file;
        log_file.add(options().text(plan::kBundle)).add("/runtime.log");
        const char *remove[] = {options().text(plan::kRuntime), "--log", log_file.c(), "delete", "--force",
                                options().text(plan::kId),      nullptr};
        run_runtime(remove, false);
    }
}

} // namespace

bool watch(int fd, uint32_t events, uint32_t tag, bool add) {
    struct epoll_event event = {};
    event.events = events;
    event.data.u32 = tag;
    // HUP and ERR cannot be masked: a descriptor that nobody wants to hear of leaves the set.
    if (!add && events == 0 && tag < kTagClient) return epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, nullptr) == 0;
    if (epoll_ctl(epoll_fd, add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event) == 0) return true;
    if (!add && errno == ENOENT) return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
    return add && errno == EEXIST && epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event) == 0;
}

void unwatch(int fd) { epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, nullptr); }

bool write_file(const char *path, const char *value, size_t length, int flags) {
    int fd = open(path, flags);
    if (fd < 0) return false;
    ssize_t n;
    do
        n = write(fd, value, length);
    while (n < 0 && errno == EINTR);
    int error = errno;
    close(fd);
    errno = error;
    return n == ssize_t(length);
}

bool send_message(int fd, const plan::Message &message, const char *text, const int *fds, int count) {
    if (fd < 0) return false;
    struct iovec parts[2] = {{const_cast<plan::Message *>(&message), sizeof message},
                             {const_cast<char *>(text), message.length}};
    struct msghdr header = {};
    alignas(struct cmsghdr) char space[CMSG_SPACE(8 * sizeof(int))];
    header.msg_iov = parts;
    header.msg_iovlen = text && message.length ? 2 : 1;
    if (count > 0) {
        header.msg_control = space;
        header.msg_controllen = CMSG_SPACE(size_t(count) * sizeof(int));
        struct cmsghdr *control = CMSG_FIRSTHDR(&header);
        control->cmsg_level = SOL_SOCKET, control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(size_t(count) * sizeof(int));
        memcpy(CMSG_DATA(control), fds, size_t(count) * sizeof(int));
    }
    return sendmsg(fd, &header, MSG_NOSIGNAL) >= 0;
}

ssize_t receive_message(int fd, plan::Message &message, char *text, int fds[8], int flags) {
    struct iovec parts[2] = {{&message, sizeof message}, {text, plan::kMaxText}};
    struct msghdr header = {};
    alignas(struct cmsghdr) char space[CMSG_SPACE(8 * sizeof(int))];
    header.msg_iov = parts, header.msg_iovlen = 2;
    header.msg_control = space, header.msg_controllen = sizeof space;
    for (int i = 0; i < 8; i++)
        fds[i] = -1;
    ssize_t n = recvmsg(fd, &header, flags | MSG_CMSG_CLOEXEC);
    if (n <= 0) return n;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    if (size_t(n) < sizeof message || message.length != size_t(n) - sizeof message) {
        message.command = 0;
        message.length = 0;
    }
    text[message.length] = 0;
    return n;
}

} // namespace gantry::shim

int main(int argc, char **argv) {
    using namespace gantry::shim;
    if (argc > 2 && strcmp(argv[0], gantry::plan::kInitPath) == 0) init_main(argv + 2);
    prctl(PR_SET_NAME, "gantry-shim");
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    close_range(gantry::plan::kListenFd + 1, ~0u, 0);
    if (chdir("/") != 0) return 2;
    umask(022);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    signal(SIGPIPE, SIG_IGN);
    for (int fd : {gantry::plan::kControlFd, gantry::plan::kListenFd})
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    for (int &fd : engines)
        fd = -1;
    watch(signal_fd, EPOLLIN, kTagSignal, true);
    watch(gantry::plan::kListenFd, EPOLLIN, kTagListen, true);
    add_engine(gantry::plan::kControlFd);
    loop();
    return 0;
}
