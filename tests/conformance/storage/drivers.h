// The drivers under test and the few moves every case makes. A case never asks for a driver's name,
// only for its capabilities.
#pragma once

#include "plugins/storage-overlay/driver.h"
#include "plugins/storage-vfs/driver.h"
#include "tests/integration/layer/trees.h"

#include <gtest/gtest.h>

namespace gantry::test {

struct DriverCase {
    const char *name;
    std::shared_ptr<StorageDriver> (*make)(const std::string &root);
};
inline std::ostream &operator<<(std::ostream &out, const DriverCase &c) { return out << c.name; }

inline const DriverCase kDrivers[] = {
    {"overlay",
     [](const std::string &root) -> std::shared_ptr<StorageDriver> {
         return std::make_shared<OverlayDriver>(root, OverlayDriver::Settings{});
     }},
    {"vfs",
     [](const std::string &root) -> std::shared_ptr<StorageDriver> {
         return std::make_shared<VfsDriver>(root);
     }},
};

template <typename Work> ErrorClass class_of(Work work) {
    try {
        work();
    } catch (const Error &error) {
        return error.error_class();
    }
    ADD_FAILURE() << "nothing was thrown";
    return ErrorClass::kInternal;
}

/// A detached tree as a path.
struct View {
    UniqueFd fd;
    std::string path() const { return "/proc/self/fd/" + std::to_string(fd.get()) + "/"; }
};

} // namespace gantry::test
