// A runtime in a directory of its own and a root filesystem with busybox, for the tests of the shim.
#pragma once

#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/runtime/runtime.h"

#include <gantry/error.hpp>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {

struct RuntimeTest : testing::Test {
    std::string base;
    RuntimeSettings settings;
    std::unique_ptr<Runtime> runtime;

    void SetUp() override {
        if (geteuid() != 0) GTEST_SKIP() << "needs root";
        if (access("/bin/busybox", X_OK) != 0) GTEST_SKIP() << "needs a static /bin/busybox";
        base = "/tmp/gantry-runtime-" + random_hex(4);
        for (const char *dir : {"/root/bin", "/root/proc", "/root/dev", "/root/sys", "/root/tmp", "/root/etc",
                                "/upper", "/work", "/run"})
            make_directories(base + dir, 0755);
        std::string busybox = read_file("/bin/busybox", 16u << 20);
        write_file_atomically(base + "/root/bin/busybox", busybox, 0755, false);
        for (const char *name : {"sh", "echo", "cat", "sleep", "true", "id", "ls", "wc", "stty", "kill",
                                 "head", "dd", "tail", "grep", "hostname", "touch", "mount"})
            ASSERT_EQ(0, symlink("busybox", (base + "/root/bin/" + name).c_str()));
        write_file_atomically(base + "/root/bin/notexec", "x", 0644, false);
        settings = {std::string(GANTRY_BINARY_DIR) + "/lib/gantry/gantry-shim", base + "/run",
                    "/gantry-test-" + base.substr(base.size() - 8), "test"};
        runtime = Runtime::make(settings);
    }
    void TearDown() override {
        if (base.empty()) return;
        if (!runtime) runtime = Runtime::make(settings);
        runtime->sweep({});
        runtime.reset();
        for (const auto &name : list_directory("/sys/fs/cgroup"))
            rmdir(("/sys/fs/cgroup/" + name + settings.cgroup_parent).c_str());
        rmdir(("/sys/fs/cgroup" + settings.cgroup_parent).c_str());
        remove_tree(base);
    }

    RuntimeSpec spec(std::vector<std::string> args) {
        RuntimeSpec s;
        s.process.args = std::move(args);
        s.process.env = {"PATH=/bin"};
        s.process.capabilities = default_capabilities();
        s.hostname = "testbox";
        s.namespaces = {{"pid", ""}, {"network", ""}, {"mount", ""},
                        {"ipc", ""}, {"uts", ""},     {"cgroup", ""}};
        s.mounts = {
            {"/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}},
            {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}},
            {"/dev/pts",
             "devpts",
             "devpts",
             {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
            {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}},
            {"/sys/fs/cgroup", "cgroup", "cgroup", {"ro", "nosuid", "noexec", "nodev"}},
            {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}},
            {"/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=67108864"}}};
        s.masked_paths = {"/proc/kcore", "/proc/keys", "/proc/acpi", "/proc/timer_list", "/sys/firmware"};
        s.read_only_paths = {"/proc/sys", "/proc/irq", "/proc/bus"};
        s.seccomp = default_seccomp(s.process.capabilities);
        s.resources.devices = {{false, 'a', -1, -1, "rwm"},
                               {true, 'c', 1, -1, "rwm"},
                               {true, 'c', 5, -1, "rwm"},
                               {true, 'c', 136, -1, "rwm"}};
        return s;
    }
    StartExtras extras() {
        StartExtras e;
        e.rootfs = {
            {"overlay",
             "overlay",
             "",
             {"lowerdir=" + base + "/root", "upperdir=" + base + "/upper", "workdir=" + base + "/work"},
             false}};
        e.log_path = base + "/log.json";
        e.exit_path = base + "/exit";
        return e;
    }
    std::shared_ptr<Task> start(const RuntimeSpec &s, const StartExtras &e, const std::string &id = "box",
                                const std::function<void(Task &)> &before = {}) {
        return runtime->start(runtime->prepare(id, s.namespaces), s, e, before);
    }
    std::string log() {
        bool found;
        return read_file_if(base + "/log.json", found);
    }
    bool cgroup_left(const std::string &id) {
        for (const auto &name : list_directory("/sys/fs/cgroup"))
            if (path_exists("/sys/fs/cgroup/" + name + settings.cgroup_parent + "/" + id)) return true;
        return path_exists("/sys/fs/cgroup" + settings.cgroup_parent + "/" + id);
    }
    static std::pair<UniqueFd, UniqueFd> connection() {
        int pair[2];
        EXPECT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
        return {UniqueFd(pair[0]), UniqueFd(pair[1])};
    }
    /// Reads until `text` was seen or the end; what was read.
    static std::string read_until(int fd, const std::string &text, int timeout_ms = 10000) {
        std::string got;
        char buffer[65536];
        pollfd wait{fd, POLLIN, 0};
        while ((text.empty() || got.find(text) == std::string::npos) && poll(&wait, 1, timeout_ms) > 0) {
            ssize_t n = read(fd, buffer, sizeof buffer);
            if (n <= 0) break;
            got.append(buffer, size_t(n));
        }
        return got;
    }
};

} // namespace gantry
