// A btrfs file system of the test's own: a sparse image on a loop device, mounted in a mount namespace
// that only this process has. Image and device go with the last user, also when the test is killed.
#pragma once

#include "tests/integration/layer/trees.h"

#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

namespace gantry::test {

/// Before any thread is there: one made earlier would stay in the old namespace.
inline const bool kOwnMounts =
    ::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;

struct BtrfsLoop {
    std::string path = "/tmp/gantry-btrfs-" + random_hex(6);

    explicit BtrfsLoop(uint64_t megabytes = 1024) {
        if (!kOwnMounts) throw std::runtime_error("no mount namespace of its own");
        const std::string image = path + ".img";
        UniqueFd file(::open(image.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
        if (!file || ::ftruncate(file.get(), static_cast<off_t>(megabytes << 20)) != 0)
            throw std::runtime_error("make " + image);
        try {
            shell_in("/", "mkfs.btrfs -q " + image + " >/dev/null");
            UniqueFd device = attach(file.get());
            make_directories(path, 0755);
            char name[32];
            std::snprintf(name, sizeof name, "/dev/loop%d", number_);
            if (::mount(name, path.c_str(), "btrfs", 0, nullptr) != 0)
                throw std::runtime_error("mount " + image + ": " + std::strerror(errno));
        } catch (...) {
            ::unlink(image.c_str());
            ::rmdir(path.c_str());
            throw;
        }
        ::unlink(image.c_str());
    }
    ~BtrfsLoop() {
        ::umount2(path.c_str(), MNT_DETACH);
        ::rmdir(path.c_str());
    }

  private:
    UniqueFd attach(int file) {
        const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
        for (int attempt = 0; attempt < 50; ++attempt) { // another process may take the same number first
            number_ = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
            UniqueFd device(::open(("/dev/loop" + std::to_string(number_)).c_str(), O_RDWR | O_CLOEXEC));
            loop_config config{};
            config.fd = static_cast<__u32>(file);
            config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
            if (device && ::ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) return device;
            if (device && errno != EBUSY) break;
        }
        throw std::runtime_error(std::string("attach a loop device: ") + std::strerror(errno));
    }
    int number_ = -1;
};

} // namespace gantry::test
