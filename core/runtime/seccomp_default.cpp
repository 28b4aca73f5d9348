// Docker 20.10's default policy: what a container may call. The system calls are listed by what they are
// for; behind the list come those that depend on a capability. Kept as names: the numbers differ between
// the architectures and are resolved when the policy is compiled.
#include "core/runtime/spec.h"

#include <algorithm>
#include <sstream>

namespace gantry {
namespace {

// files and directories
constexpr const char *kFiles =
    "access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat "
    "faccessat2 "
    "fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchown fchown32 fchownat fcntl "
    "fcntl64 "
    "fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 "
    "fsync "
    "ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init "
    "inotify_init1 inotify_rm_watch ioctl lchown lchown32 lgetxattr link linkat listxattr llistxattr _llseek "
    "lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat newfstatat "
    "open "
    "openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink "
    "readlinkat "
    "readv removexattr rename renameat renameat2 rmdir sendfile sendfile64 setxattr splice stat stat64 "
    "statfs "
    "statfs64 statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 ugetrlimit umask "
    "unlink "
    "unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev";
// memory and locks between threads
constexpr const char *kMemory = "brk futex futex_time64 futex_waitv get_robust_list membarrier memfd_create "
                                "memfd_secret mincore mlock mlock2 mlockall "
                                "mmap mmap2 mprotect mremap msync munlock munlockall munmap madvise "
                                "process_mrelease remap_file_pages set_robust_list rseq";
// processes, scheduling, identity
constexpr const char *kProcesses =
    "alarm capget capset execve execveat exit exit_group fork getcpu getegid getegid32 "
    "geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpgid getpgrp getpid getppid "
    "getpriority "
    "getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid getuid32 "
    "get_thread_area "
    "ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self nanosleep "
    "pause "
    "pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rt_sigaction rt_sigpending rt_sigprocmask "
    "rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo "
    "sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min "
    "sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr "
    "sched_setparam sched_setscheduler sched_yield seccomp setfsgid setfsgid32 setfsuid setfsuid32 setgid "
    "setgid32 "
    "setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid "
    "setresuid32 setreuid setreuid32 setrlimit setsid set_thread_area set_tid_address setuid setuid32 "
    "sigaltstack "
    "signalfd signalfd4 sigprocmask sigreturn sysinfo tgkill time times tkill uname vfork wait4 waitid "
    "waitpid";
// sockets, polling, message passing, asynchronous input and output
constexpr const char *kCommunication =
    "accept accept4 bind connect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 "
    "epoll_wait epoll_wait_old eventfd eventfd2 getpeername getrandom getsockname getsockopt io_cancel "
    "io_destroy "
    "io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit io_uring_enter io_uring_register "
    "io_uring_setup ipc listen mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 "
    "mq_timedsend "
    "mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd _newselect poll ppoll ppoll_time64 pselect6 "
    "pselect6_time64 recv recvfrom recvmmsg recvmmsg_time64 recvmsg select semctl semget semop semtimedop "
    "semtimedop_time64 send sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socket "
    "socketcall socketpair";
// clocks and timers
constexpr const char *kTime =
    "adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 "
    "clock_nanosleep clock_nanosleep_time64 gettimeofday timer_create timer_delete timer_getoverrun "
    "timer_gettime "
    "timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 "
    "timerfd_settime timerfd_settime64";

struct ByCapability {
    const char *capability, *names;
};
constexpr ByCapability kByCapability[] = {
    {"CAP_DAC_READ_SEARCH", "open_by_handle_at"},
    {"CAP_SYS_ADMIN", "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount "
                      "mount_setattr move_mount name_to_handle_at open_tree perf_event_open quotactl "
                      "quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare"},
    {"CAP_SYS_BOOT", "reboot"},
    {"CAP_SYS_CHROOT", "chroot"},
    {"CAP_SYS_MODULE", "delete_module finit_module init_module"},
    {"CAP_SYS_PACCT", "acct"},
    {"CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"},
    {"CAP_SYS_RAWIO", "ioperm iopl"},
    {"CAP_SYS_TIME", "clock_settime settimeofday stime"},
    {"CAP_SYS_TTY_CONFIG", "vhangup"},
    {"CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy"},
    {"CAP_SYSLOG", "syslog"},
};

std::vector<std::string> words(const char *text) {
    std::vector<std::string> out;
    std::istringstream in(text);
    for (std::string word; in >> word;)
        out.push_back(word);
    return out;
}

} // namespace

SpecSeccomp default_seccomp(const std::vector<std::string> &capabilities) {
    SpecSeccomp policy;
    policy.default_action = "SCMP_ACT_ERRNO";
#ifdef __x86_64__
    policy.architectures = {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"};
#else
    policy.architectures = {"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"};
#endif
    auto has = [&](const char *name) {
        return std::find(capabilities.begin(), capabilities.end(), name) != capabilities.end();
    };
    SpecSeccompRule allow;
    allow.action = "SCMP_ACT_ALLOW";
    for (const char *group : {kFiles, kMemory, kProcesses, kCommunication, kTime})
        for (auto &name : words(group))
            allow.names.push_back(std::move(name));
    // Since 4.8 ptrace cannot be used to get round the filter.
    allow.names.push_back("ptrace");
#ifdef __x86_64__
    for (const char *name : {"arch_prctl", "modify_ldt"})
        allow.names.push_back(name);
#else
    for (const char *name : {"arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint",
                             "cacheflush", "set_tls"})
        allow.names.push_back(name);
#endif
    for (const auto &group : kByCapability)
        if (has(group.capability))
            for (auto &name : words(group.names))
                allow.names.push_back(std::move(name));
    std::sort(allow.names.begin(), allow.names.end());
    allow.names.erase(std::unique(allow.names.begin(), allow.names.end()), allow.names.end());
    policy.rules.push_back(std::move(allow));
    // personality: PER_LINUX, PER_LINUX32, UNAME26, both, and the query.
    for (uint64_t value : {0x0ull, 0x8ull, 0x20000ull, 0x20008ull, 0xffffffffull}) {
        SpecSeccompRule rule;
        rule.names = {"personality"};
        rule.action = "SCMP_ACT_ALLOW";
        rule.args.push_back({0, value, 0, "SCMP_CMP_EQ"});
        policy.rules.push_back(std::move(rule));
    }
    if (!has("CAP_SYS_ADMIN")) {
        SpecSeccompRule clone;
        clone.names = {"clone"};
        clone.action = "SCMP_ACT_ALLOW";
        // None of the CLONE_NEW* flags.
        clone.args.push_back({0, 0x7e020000, 0, "SCMP_CMP_MASKED_EQ"});
        policy.rules.push_back(std::move(clone));
        // Its flags lie in memory where no filter sees them; ENOSYS makes libc fall back to clone.
        SpecSeccompRule clone3;
        clone3.names = {"clone3"};
        clone3.action = "SCMP_ACT_ERRNO";
        clone3.errno_ret = 38;
        policy.rules.push_back(std::move(clone3));
    }
    return policy;
}

} // namespace gantry
