// The v2 device program on a group of the cgroup2 hierarchy, which hybrid hosts have too.
#include "core/runtime/cgroups.h"

#include <fcntl.h>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace gantry {

TEST(DeviceProgram, LastMatchDecides) {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
    std::string dir;
    for (const auto &h : detect_cgroups().hierarchies)
        if (h.unified) dir = h.mount_point + "/gantry-device-" + std::to_string(getpid());
    if (dir.empty()) GTEST_SKIP() << "needs a cgroup2 hierarchy";
    ASSERT_EQ(0, mkdir(dir.c_str(), 0755));
    attach_device_program(dir,
                          {{false, 'a', -1, -1, "rwm"}, {true, 'c', 1, 3, "rwm"}, {true, 'c', 1, 5, "r"}});
    pid_t pid = fork();
    if (pid == 0) {
        std::ofstream(dir + "/cgroup.procs") << "0" << std::flush;
        int result = 0;
        result |= open("/dev/null", O_RDWR) >= 0 ? 1 : 0;
        result |= open("/dev/zero", O_RDONLY) >= 0 ? 2 : 0;
        result |= open("/dev/zero", O_RDWR) < 0 && errno == EPERM ? 4 : 0;
        result |= open("/dev/full", O_RDONLY) < 0 && errno == EPERM ? 8 : 0;
        _exit(result);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    EXPECT_EQ(15, WEXITSTATUS(status));
    EXPECT_EQ(0, rmdir(dir.c_str()));
}

} // namespace gantry
