// The kernel's part: system calls, namespaces and file systems, each tried rather than looked up.
#include "core/base/fd.h"
#include "core/base/files.h"
#include "core/doctor/doctor.h"
#include "core/doctor/in_child.h"

#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

namespace gantry::doctor {

namespace {

constexpr const char *kArea = "kernel";

void version(Findings &out) {
    utsname names{};
    uname(&names);
    unsigned major = 0, minor = 0;
    sscanf(names.release, "%u.%u", &major, &minor);
    const bool enough = major > 5 || (major == 5 && minor >= 10);
    out.push_back({kArea, "version", enough ? Verdict::kOk : Verdict::kError,
                   std::string(names.release) + (enough ? "" : ": older than 5.10"),
                   enough ? "" : "install a kernel of the 5.10 series or later"});
}

void root(Findings &out) {
    if (geteuid() == 0) return;
    out.push_back({kArea, "privileges", Verdict::kWarning,
                   "not root: what needs root to be probed is reported as missing", "run it with sudo"});
}

void namespaces(Findings &out) {
    struct {
        int flag;
        const char *name;
    } const kinds[] = {{CLONE_NEWPID, "pid"}, {CLONE_NEWNET, "net"}, {CLONE_NEWIPC, "ipc"},
                       {CLONE_NEWNS, "mnt"},  {CLONE_NEWUTS, "uts"}, {CLONE_NEWCGROUP, "cgroup"}};
    std::string missing;
    for (const auto &kind : kinds)
        if (const int error = in_child([&] { return unshare(kind.flag) ? errno : 0; }))
            missing += std::string(missing.empty() ? "" : ", ") + kind.name + " (" + strerror(error) + ")";
    out.push_back({kArea, "namespaces", missing.empty() ? Verdict::kOk : Verdict::kError,
                   missing.empty() ? "pid, net, ipc, mnt, uts, cgroup" : "cannot be made: " + missing,
                   missing.empty() ? "" : "a kernel with CONFIG_NAMESPACES and its kinds, and root"});
    const int user = in_child([] { return unshare(CLONE_NEWUSER) ? errno : 0; });
    out.push_back({kArea, "user namespaces", user ? Verdict::kNotice : Verdict::kOk,
                   user ? std::string("cannot be made: ") + strerror(user) : "available",
                   user ? "raise user.max_user_namespaces, or a kernel with CONFIG_USER_NS" : ""});
}

void system_calls(Findings &out) {
    open_how how{};
    how.flags = O_PATH | O_CLOEXEC;
    how.resolve = RESOLVE_IN_ROOT;
    const UniqueFd rooted(int(syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof how)));
    out.push_back({kArea, "openat2", rooted ? Verdict::kOk : Verdict::kError,
                   rooted ? "layers are unpacked below their root" : strerror(errno),
                   rooted ? "" : "a kernel of 5.6 or later, and no seccomp filter that forbids it"});
    const UniqueFd self(int(syscall(SYS_pidfd_open, getpid(), 0)));
    out.push_back({kArea, "pidfd", self ? Verdict::kOk : Verdict::kError,
                   self ? "signals cannot meet a reused process id" : strerror(errno),
                   self ? "" : "a kernel of 5.3 or later"});
    const UniqueFd memory(memfd_create("doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    out.push_back({kArea, "sealed memory files", memory ? Verdict::kOk : Verdict::kError,
                   memory ? "the shim runs from a sealed copy of itself" : strerror(errno),
                   memory ? "" : "a kernel with CONFIG_MEMFD_CREATE"});
    bool known = false;
    const std::string actions = read_file_if("/proc/sys/kernel/seccomp/actions_avail", known);
    const bool seccomp = known && actions.find("errno") != actions.npos && prctl(PR_GET_SECCOMP) >= 0;
    out.push_back(
        {kArea, "seccomp filters", seccomp ? Verdict::kOk : Verdict::kError,
         seccomp ? "the default policy applies" : "absent: only --security-opt seccomp=unconfined runs",
         seccomp ? "" : "a kernel with CONFIG_SECCOMP_FILTER"});
}

/// An overlay of two directories on a private tmpfs, by way of the new mount API.
int mount_overlay(bool repeated_lower) {
    if (unshare(CLONE_NEWNS) || mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr)) return errno;
    if (mount("tmpfs", "/tmp", "tmpfs", 0, "size=1m")) return errno;
    for (const char *name : {"/tmp/lower", "/tmp/upper", "/tmp/work"})
        if (mkdir(name, 0755)) return errno;
    const UniqueFd context(int(syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC)));
    if (!context) return errno;
    auto set = [&](const char *key, const char *value) {
        return syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, key, value, 0) == 0;
    };
    if (!set(repeated_lower ? "lowerdir+" : "lowerdir", "/tmp/lower")) return errno;
    if (!set("upperdir", "/tmp/upper") || !set("workdir", "/tmp/work")) return errno;
    if (syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0)) return errno;
    const UniqueFd mounted(int(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0)));
    return mounted ? 0 : errno;
}

void overlay(Findings &out) {
    const int plain = in_child([] { return mount_overlay(false); });
    out.push_back(
        {kArea, "overlay", plain ? Verdict::kWarning : Verdict::kOk,
         plain ? std::string("cannot be mounted: ") + strerror(plain) + ": the overlay backend is not usable"
               : "detached mounts work",
         plain ? "modprobe overlay, a kernel with CONFIG_OVERLAY_FS, or storage.driver = \"vfs\"" : ""});
    if (plain) return;
    const int repeated = in_child([] { return mount_overlay(true); });
    out.push_back(
        {kArea, "overlay lowerdir+", repeated ? Verdict::kNotice : Verdict::kOk,
         repeated ? "absent: images of more than about 130 layers cannot be mounted" : "up to 500 layers",
         repeated ? "a kernel of 6.8 or later" : ""});
}

void id_mapped_mounts(Findings &out) {
    errno = 0;
    mount_attr attributes{};
    syscall(SYS_mount_setattr, -1, "", AT_EMPTY_PATH, &attributes, sizeof attributes);
    const bool present = errno != ENOSYS;
    out.push_back({kArea, "id-mapped mounts", present ? Verdict::kOk : Verdict::kNotice,
                   present ? "mount_setattr is there" : "absent",
                   present ? "" : "a kernel of 5.12 or later"});
}

void security_modules(Findings &out) {
    bool found = false;
    const std::string modules = read_file_if("/sys/kernel/security/lsm", found);
    const bool apparmor = path_exists("/sys/kernel/security/apparmor"),
               selinux = path_exists("/sys/fs/selinux/enforce");
    std::string seen = apparmor ? "apparmor" : "";
    if (selinux) seen += seen.empty() ? "selinux" : ", selinux";
    out.push_back({kArea, "security modules", Verdict::kOk,
                   seen.empty() ? "neither AppArmor nor SELinux: containers are confined by namespaces, "
                                  "capabilities and seccomp"
                                : seen,
                   ""});
    if (selinux)
        out.back() = {kArea, "security modules", Verdict::kNotice,
                      "SELinux is on and files are not labelled for containers",
                      "run containers with --security-opt label=disable, or permissive mode"};
}

void limits(Findings &out) {
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    const bool enough = files.rlim_max == RLIM_INFINITY || files.rlim_max >= 65536;
    out.push_back({kArea, "open files", enough ? Verdict::kOk : Verdict::kNotice,
                   "hard limit " +
                       (files.rlim_max == RLIM_INFINITY ? "unlimited" : std::to_string(files.rlim_max)) +
                       (enough ? "" : ": some hundred containers at most, and no higher --ulimit nofile"),
                   enough ? "" : "LimitNOFILE=infinity in the service unit"});
}

} // namespace

void examine_kernel(Findings &out) {
    version(out);
    root(out);
    namespaces(out);
    system_calls(out);
    overlay(out);
    id_mapped_mounts(out);
    security_modules(out);
    limits(out);
}

} // namespace gantry::doctor
