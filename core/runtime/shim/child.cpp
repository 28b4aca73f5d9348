// The new process from clone to execve. First half: into its cgroups and namespaces, then it waits; this
// is what a warm sandbox is. Second half: the start plan. It shares nothing with the supervisor but one
// socket, which execve closes: end of file there means "running", a message means why not.
#include "core/runtime/shim/shim.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

namespace gantry::shim {
namespace {

int control_fd = -1;
char *environment[8192];
char *arguments[8192];

plan::View options_of(const char *bytes) {
    plan::Cursor c(bytes, plan::kOptions);
    c.next();
    return c.view();
}

/// A lone thread that moves itself waits for nobody; through cgroup.procs it would wait 8-11 ms for a grace
/// period of RCU. Only cgroup v1 has `tasks`; on v2 being born in the group does the same (`placed`).
void enter_cgroups(const char *prepare, bool placed) {
    for (plan::Cursor c(prepare, plan::kCgroupDir); c.next();) {
        Path path;
        path.add(c.view().text(0)).add("/tasks");
        if (write_file(path.c(), "0", 1)) continue;
        if (errno == ENOENT && placed) continue;
        path = Path();
        path.add(c.view().text(0)).add("/cgroup.procs");
        if (!write_file(path.c(), "0", 1)) child_fail(kClassInternal, errno, "enter cgroup", path.c());
    }
}

void enter_namespaces(const char *prepare, int target_pidfd) {
    if (target_pidfd >= 0) {
        // Not dumpable: between setns and execve a process of the container could otherwise open our
        // descriptors through /proc.
        prctl(PR_SET_DUMPABLE, 0);
        if (setns(target_pidfd, CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) !=
            0)
            child_fail(kClassInternal, errno, "join the container's namespaces");
        return;
    }
    for (plan::Cursor c(prepare, plan::kNamespace); c.next();) {
        plan::View view = c.view();
        const char *path = view.text(0);
        if (*path && view.number(0) != CLONE_NEWPID) {
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            if (fd < 0 || setns(fd, int(view.number(0))) != 0)
                child_fail(kClassInternal, errno, "join namespace", path);
            close(fd);
        }
        // After the cgroups were entered, or the namespace's root would be the engine's cgroup.
        if (!*path && view.number(0) == CLONE_NEWCGROUP && unshare(CLONE_NEWCGROUP) != 0)
            child_fail(kClassInternal, errno, "make cgroup namespace");
    }
}

void open_terminal(const plan::View &options) {
    int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NOFOLLOW);
    struct statfs fs;
    // The container could have put anything there: only a devpts instance is believed.
    if (master < 0 || fstatfs(master, &fs) != 0 || fs.f_type != 0x1cd1)
        child_fail(kClassInternal, master < 0 ? errno : EINVAL, "open /dev/pts/ptmx");
    int unlock = 0;
    ioctl(master, TIOCSPTLCK, &unlock);
    int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0) child_fail(kClassInternal, errno, "open terminal");
    struct winsize size = {};
    size.ws_row = (unsigned short)options.number(plan::kRows);
    size.ws_col = (unsigned short)options.number(plan::kColumns);
    if (size.ws_row || size.ws_col) ioctl(master, TIOCSWINSZ, &size);
    plan::Message message = {};
    message.command = 'T';
    if (!send_message(control_fd, message, nullptr, &master, 1)) _exit(1);
    close(master);
    for (int fd = 0; fd < 3; fd++)
        dup2(slave, fd);
    close(slave);
}

void set_limits(const char *bytes) {
    for (plan::Cursor c(bytes, plan::kRlimit); c.next();) {
        struct rlimit64 wanted = {c.view().number(1), c.view().number(2)}, now;
        int resource = int(c.view().number(0));
        if (prlimit64(0, (__rlimit_resource)resource, &wanted, nullptr) == 0) continue;
        // Without CAP_SYS_RESOURCE hard limits cannot grow: give what there is.
        if (errno != EPERM || prlimit64(0, (__rlimit_resource)resource, nullptr, &now) != 0)
            child_fail(kClassInternal, errno, "set rlimit");
        if (wanted.rlim_max > now.rlim_max) wanted.rlim_max = now.rlim_max;
        if (wanted.rlim_cur > wanted.rlim_max) wanted.rlim_cur = wanted.rlim_max;
        prlimit64(0, (__rlimit_resource)resource, &wanted, nullptr);
    }
}

void set_capabilities(uint64_t effective, uint64_t permitted, uint64_t inheritable) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    for (int i = 0; i < 2; i++)
        data[i] = {uint32_t(effective >> 32 * i), uint32_t(permitted >> 32 * i),
                   uint32_t(inheritable >> 32 * i)};
    if (syscall(SYS_capset, &header, data) != 0) child_fail(kClassInternal, errno, "set capabilities");
}

uint64_t permitted_now() {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {};
    syscall(SYS_capget, &header, data);
    return data[0].permitted | uint64_t(data[1].permitted) << 32;
}

void load_seccomp(const char *bytes) {
    for (plan::Cursor c(bytes, plan::kSeccomp); c.next();) {
        uint32_t size;
        const char *program = c.view().text(0, &size);
        struct sock_fprog filter = {(unsigned short)(size / sizeof(struct sock_filter)),
                                    (struct sock_filter *)const_cast<char *>(program)};
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) != 0)
            child_fail(kClassInternal, errno, "load seccomp filter");
    }
}

void set_identity(const char *bytes, uint64_t flags) {
    plan::Cursor ids(bytes, plan::kIds), caps(bytes, plan::kCaps);
    ids.next(), caps.next();
    plan::View id = ids.view(), cap = caps.view();
    static gid_t groups[1024];
    uint32_t count = 0;
    for (uint32_t i = 3; i < id.numbers() && count < 1024; i++)
        groups[count++] = gid_t(id.number(i));
    uint64_t have = permitted_now();
    for (int i = 0; i < 64; i++)
        if (!(cap.number(0) >> i & 1) && prctl(PR_CAPBSET_DROP, i, 0, 0, 0) != 0 && errno == EINVAL) break;
    prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
    if (syscall(SYS_setgroups, count, groups) != 0) child_fail(kClassInternal, errno, "set groups");
    gid_t gid = gid_t(id.number(1));
    uid_t uid = uid_t(id.number(0));
    if (syscall(SYS_setresgid, gid, gid, gid) != 0) child_fail(kClassInternal, errno, "set group id");
    if (syscall(SYS_setresuid, uid, uid, uid) != 0) child_fail(kClassInternal, errno, "set user id");
    prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
    umask(mode_t(id.number(2)));
    // Without no_new_privs the filter needs CAP_SYS_ADMIN, so it is loaded before the capabilities go.
    set_capabilities(have, have, cap.number(3) & have);
    if (flags & plan::kNoNewPrivs)
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
            child_fail(kClassInternal, errno, "set no_new_privs");
    load_seccomp(bytes);
    set_capabilities(cap.number(1) & have, cap.number(2) & have, cap.number(3) & have);
    for (int i = 0; i < 64; i++)
        if (cap.number(4) >> i & 1) prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0);
}

[[noreturn]] void fail_exec(const char *name, const char *detail, int error) {
    Text what;
    what.add("exec: \"").add(name).add("\": ");
    if (detail) what.add(detail);
    plan::Message message = {};
    message.command = 'E';
    message.a = error == ENOENT ? kClassInvalid : kClassDenied;
    if (error == EACCES || error == EISDIR || error == ENOENT) message.a = kClassInvalid;
    message.b = uint32_t(error);
    message.length = uint32_t(what.size);
    send_message(control_fd, message, what.c(), nullptr, 0);
    _exit(1);
}

/// Go's exec.LookPath, whose texts clients know.
void look_up(const char *name, Path &found) {
    struct stat status;
    if (strchr(name, '/')) {
        Text text;
        if (stat(name, &status) != 0) {
            int error = errno;
            text.add("stat ").add(name).add(": ");
            add_error(text, error);
            fail_exec(name, text.c(), error);
        }
        if (S_ISDIR(status.st_mode)) fail_exec(name, "is a directory", EISDIR);
        if (!(status.st_mode & 0111)) fail_exec(name, "permission denied", EACCES);
        found.add(name);
        return;
    }
    const char *path = nullptr;
    for (char **e = environment; *e; e++)
        if (!strncmp(*e, "PATH=", 5)) path = *e + 5;
    for (const char *p = path ? path : ""; path;) {
        const char *end = strchrnul(p, ':');
        found = Path();
        found.add(p, size_t(end - p));
        if (end == p) found.add(".");
        found.add("/").add(name);
        if (stat(found.c(), &status) == 0 && !S_ISDIR(status.st_mode) && (status.st_mode & 0111)) return;
        if (!*end) break;
        p = end + 1;
    }
    fail_exec(name, "executable file not found in $PATH", ENOENT);
}

void collect(const char *bytes) {
    size_t n = 0;
    for (plan::Cursor c(bytes, plan::kArg); c.next();) {
        if (n == sizeof arguments / sizeof *arguments - 1) child_fail(kClassInvalid, E2BIG, "take arguments");
        arguments[n++] = const_cast<char *>(c.view().text(0));
    }
    n = 0;
    for (plan::Cursor c(bytes, plan::kEnv); c.next();) {
        if (n == sizeof environment / sizeof *environment - 1)
            child_fail(kClassInvalid, E2BIG, "take environment");
        environment[n++] = const_cast<char *>(c.view().text(0));
    }
}

} // namespace

void child_fail(uint32_t error_class, int error, const char *what, const char *object) {
    Text text;
    text.add(what);
    if (object) text.add(" ").add(object);
    if (error) {
        text.add(": ");
        add_error(text, error);
    }
    plan::Message message = {};
    message.command = 'E';
    message.a = error_class;
    message.b = uint32_t(error);
    message.length = uint32_t(text.size);
    send_message(control_fd, message, text.c(), nullptr, 0);
    _exit(1);
}

void child_main(const ChildArgs &args) {
    control_fd = args.control;
    setsid();
    enter_cgroups(args.prepare, args.placed);
    enter_namespaces(args.prepare, args.target_pidfd);
    bool joined = args.target_pidfd >= 0, own_mounts = false, own_uts = false;
    for (plan::Cursor c(args.prepare, plan::kNamespace); c.next();) {
        own_mounts |= c.view().number(0) == CLONE_NEWNS && !*c.view().text(0);
        own_uts |= c.view().number(0) == CLONE_NEWUTS && !*c.view().text(0);
    }
    plan::Message message = {};
    message.command = 'R';
    if (!send_message(control_fd, message, nullptr, nullptr, 0)) _exit(1);

    static char ignored[plan::kMaxText + 1];
    int fds[8];
    if (receive_message(control_fd, message, ignored, fds, 0) <= 0 || message.command != plan::kStart ||
        fds[0] < 0)
        _exit(0); // the sandbox is not wanted any more
    struct stat status;
    if (fstat(fds[0], &status) != 0) _exit(1);
    char *bytes = (char *)mmap(nullptr, size_t(status.st_size), PROT_READ, MAP_PRIVATE, fds[0], 0);
    if (bytes == MAP_FAILED || !plan::valid(bytes, size_t(status.st_size), true))
        child_fail(kClassInternal, EINVAL, "read start plan");
    plan::View options = options_of(bytes);
    uint64_t flags = options.number(plan::kFlags);
    prctl(PR_SET_DUMPABLE, 0);
    collect(bytes);

    if (!joined) {
        uint64_t propagation = options.number(plan::kPropagation);
        // A shared root would carry our mounts to the host, and pivot_root refuses a shared parent.
        if (own_mounts && unshare(CLONE_NEWNS) != 0)
            child_fail(kClassInternal, errno, "make mount namespace");
        if (own_mounts &&
            mount(nullptr, "/", nullptr, propagation ? propagation : MS_REC | MS_PRIVATE, nullptr) != 0)
            child_fail(kClassInternal, errno, "make mounts private");
        make_root(bytes, options.text(plan::kRootPath));
        if (own_uts && *options.text(plan::kHostname) &&
            sethostname(options.text(plan::kHostname), strlen(options.text(plan::kHostname))) != 0)
            child_fail(kClassInternal, errno, "set host name");
        if (own_uts && *options.text(plan::kDomainname) &&
            setdomainname(options.text(plan::kDomainname), strlen(options.text(plan::kDomainname))) != 0)
            child_fail(kClassInternal, errno, "set domain name");
        for (plan::Cursor c(bytes, plan::kSysctl); c.next();) {
            Path path;
            path.add("/proc/sys/").add(c.view().text(0));
            if (!write_file(path.c(), c.view().text(1), strlen(c.view().text(1))))
                child_fail(kClassInternal, errno, "write sysctl", c.view().text(0));
        }
    }
    if (flags & plan::kHasOomScore) {
        TextBuffer<32> score;
        int64_t value = int64_t(options.number(plan::kOomScore));
        if (value < 0) score.add("-");
        score.number(uint64_t(value < 0 ? -value : value));
        // Lowering needs CAP_SYS_RESOURCE, which the engine itself may lack.
        if (!write_file("/proc/self/oom_score_adj", score.c(), score.size) && errno != EACCES &&
            errno != EPERM)
            child_fail(kClassInternal, errno, "set oom_score_adj");
    }
    if (!joined) {
        enter_root(bytes);
    }
    if (flags & plan::kTerminal) {
        open_terminal(options);
    } else {
        for (int fd = 0; fd < 3; fd++)
            dup2(fds[1 + fd], fd);
    }
    if (flags & plan::kTerminal && !joined) {
        // /dev/console shows the same terminal; bound by the inode that is already open.
        int console =
            open("/dev/console", O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK, 0600);
        if (console >= 0) close(console);
        int tree = open_tree(0, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
        if (tree < 0 || move_mount(tree, "", AT_FDCWD, "/dev/console", MOVE_MOUNT_F_EMPTY_PATH) != 0)
            child_fail(kClassInternal, errno, "make /dev/console");
        close(tree);
    }
    if (!joined) syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr); // not the engine's keys
    set_limits(bytes);
    plan::Cursor ids(bytes, plan::kIds);
    ids.next();
    if (ids.view().number(0) != 0)
        for (int fd = 0; fd < 3; fd++)
            if (struct stat s; fstat(fd, &s) == 0 && s.st_rdev != 0x103) // /dev/null stays root's
                if (fchown(fd, uid_t(ids.view().number(0)), gid_t(-1)) != 0) continue;

    // Everything but the control socket goes: from here on only execve is left.
    if (control_fd != 3) {
        if (dup3(control_fd, 3, O_CLOEXEC) < 0) _exit(1);
        control_fd = 3;
    }
    if (close_range(4, ~0u, 0) != 0) child_fail(kClassInternal, errno, "close descriptors");
    set_identity(bytes, flags);

    // The working directory as the container's user, who may not be allowed in.
    if (chdir(options.text(plan::kCwd)) != 0) {
        Text text;
        text.add("chdir to cwd (\"").add(options.text(plan::kCwd)).add("\") set in config.json failed");
        child_fail(errno == EACCES ? kClassDenied : kClassInvalid, errno, text.c());
    }
    Path program;
    look_up(arguments[0], program);
    if (flags & plan::kInit) {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, nullptr);
        pid_t pid = fork();
        if (pid < 0) child_fail(kClassInternal, errno, "fork under init");
        if (pid > 0) {
            close(3);
            run_init(pid);
        }
        setsid();
    }
    if (flags & plan::kTerminal) ioctl(0, TIOCSCTTY, 1);
    sigset_t none;
    sigemptyset(&none);
    for (int i = 1; i < 65; i++)
        if (i != SIGKILL && i != SIGSTOP) {
            struct kernel_action {
                void (*handler)(int);
                unsigned long flags;
                void *restorer;
                uint64_t mask;
            } action = {};
            syscall(SYS_rt_sigaction, i, &action, nullptr, 8);
        }
    sigprocmask(SIG_SETMASK, &none, nullptr);
    execve(program.c(), arguments, environment);
    int error = errno;
    Text text;
    add_error(text, error);
    fail_exec(arguments[0], text.c(), error);
}

} // namespace gantry::shim
