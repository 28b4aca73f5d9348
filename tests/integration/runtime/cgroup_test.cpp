#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/runtime/cgroups.h"

#include <csignal>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace gantry {

// Two containers started at once make their common parent: the second meets it between mkdir and its first
// cpus, and a v1 cpuset without cpus takes no process.
TEST(Cgroups, AParentThatIsBeingMadeIsUsable) {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
    const CgroupLayout layout = detect_cgroups();
    const std::string parent = "/gantry-test-" + random_hex(4);
    for (const auto &h : layout.hierarchies)
        ASSERT_EQ(0, mkdir((h.mount_point + parent).c_str(), 0755)) << h.mount_point;
    const auto dirs = make_cgroups(layout, parent, "child");
    const pid_t pid = fork();
    if (pid == 0) {
        pause();
        _exit(0);
    }
    for (const auto &dir : dirs)
        EXPECT_NO_THROW(write_kernel_file(dir + "/cgroup.procs", std::to_string(pid))) << dir;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    remove_cgroup_dirs(dirs);
    for (const auto &h : layout.hierarchies)
        EXPECT_EQ(0, rmdir((h.mount_point + parent).c_str())) << h.mount_point;
}

} // namespace gantry
