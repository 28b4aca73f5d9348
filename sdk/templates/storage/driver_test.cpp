// The driver alone, without engine or mounts; what a @KIND@ driver owes the engine is tested by
// gantry-plugin-check.
#include "call.h"
#include "driver.h"

#include <filesystem>
#include <fstream>

int main() {
    char place[] = "/tmp/@NAME@-test-XXXXXX";
    EXPECT(::mkdtemp(place) != nullptr);
    const TestCall call;
    {
        @CLASS@ driver(place, {});
        driver.create(call, "base", {}, 0);
        std::ofstream(std::string(place) + "/base/fs/file") << "hello";
        driver.commit(call, "base", {}, false);
        EXPECT(driver.usage(call, "base").inodes == 1);
        driver.create(call, "top", {"base"}, 0);
        const auto mounts = driver.mounts(call, "top", {"base"}, false);
        EXPECT(mounts.size() == 1 && mounts[0].type == "overlay");
        EXPECT(mounts[0].options[0] == "lowerdir+=" + std::string(place) + "/base/fs");
        EXPECT(status_of([&] { driver.create(call, "top", {}, 0); }) == GANTRY_ALREADY_EXISTS);
        EXPECT(status_of([&] { driver.create(call, "../x", {}, 0); }) == GANTRY_INVALID_ARGUMENT);
        EXPECT(status_of([&] { driver.mounts(call, "base", {}, false); }) == GANTRY_FAILED_PRECONDITION);
        std::filesystem::create_directory(std::string(place) + "/new.7"); // as a kill leaves it
    }
    @CLASS@ driver(place, {});
    EXPECT(driver.list(call).size() == 2);
    EXPECT(!std::filesystem::exists(std::string(place) + "/new.7"));
    driver.remove(call, "top");
    driver.remove(call, "top");
    driver.remove(call, "base");
    EXPECT(std::filesystem::is_empty(place));
    std::filesystem::remove(place);
}
