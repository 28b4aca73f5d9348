// The driver alone: an image by tag and by digest, and what leads out of the directory.
#include "call.h"
#include "driver.h"

#include <filesystem>
#include <fstream>

int main() {
    char place[] = "/tmp/@NAME@-test-XXXXXX";
    EXPECT(::mkdtemp(place) != nullptr);
    const std::string hex(64, 'a'), digest = "sha256:" + hex, top = place;
    std::filesystem::create_directories(top + "/team/app/blobs/sha256");
    std::ofstream(top + "/team/app/index.json")
        << R"({"manifests":[{"mediaType":"m","digest":")" << digest
        << R"(","size":2,"annotations":{"org.opencontainers.image.ref.name":"1.2"}}]})";
    std::ofstream(top + "/team/app/blobs/sha256/" + hex) << "{}";
    const TestCall call;
    @CLASS@ driver(top, "here");
    std::string body;
    EXPECT(driver.handles(call, {"here", "team/app", "1.2", ""}));
    EXPECT(!driver.handles(call, {"docker.io", "team/app", "1.2", ""}));
    EXPECT(driver.resolve(call, {"here", "team/app", "1.2", ""}, {}, &body).digest == digest && body == "{}");
    EXPECT(driver.resolve(call, {"here", "team/app", "", digest}, {}, nullptr).size == 2);
    EXPECT(driver.tags(call, {"here", "team/app", "", ""}, {}) == std::vector<std::string>{"1.2"});
    gantry::Fetch fetch;
    fetch.from = {"here", "team/app", "", ""};
    fetch.descriptor.digest = digest;
    fetch.offset = 1;
    std::string got;
    const gantry::BlobSink sink = [&](const std::string &, uint64_t at, const void *data, size_t size) {
        EXPECT(at == 1 + got.size());
        got.append(static_cast<const char *>(data), size);
    };
    driver.fetch(call, fetch, sink);
    EXPECT(got == "}");
    const auto resolve = [&](const char *repository, const char *tag) {
        return status_of([&] { driver.resolve(call, {"here", repository, tag, ""}, {}, nullptr); });
    };
    EXPECT(resolve("team/app", "2") == GANTRY_NOT_FOUND);
    EXPECT(resolve("nobody", "1.2") == GANTRY_NOT_FOUND);
    EXPECT(resolve("../../etc", "1.2") == GANTRY_PERMISSION_DENIED || resolve("../../etc", "1.2") == GANTRY_NOT_FOUND);
    std::filesystem::create_symlink("/etc/passwd", top + "/team/app/blobs/sha256/" + std::string(64, 'b'));
    fetch.descriptor.digest = "sha256:" + std::string(64, 'b');
    EXPECT(status_of([&] { driver.fetch(call, fetch, sink); }) == GANTRY_PERMISSION_DENIED);
    fetch.descriptor.digest = "sha256:../../../../../etc/passwd";
    EXPECT(status_of([&] { driver.fetch(call, fetch, sink); }) == GANTRY_INVALID_ARGUMENT);
    std::filesystem::remove_all(top);
}
