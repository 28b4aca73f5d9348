// A pull of one large zstd layer from three mirrors that give 10 MB/s each, and the same with one of them
// dying half-way, against what the mirrors could give. Prints lines of JSON.
//   mirror_bench DIRECTORY [MEGABYTES [ROUNDS]]
#include "core/content/content.h"
#include "core/events/events.h"
#include "core/image/images.h"
#include "core/layer/layers.h"
#include "core/store/db.h"
#include "oci_driver.h"
#include "plugins/storage-vfs/driver.h"
#include "tests/support/fault_registry.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <thread>

namespace {

using namespace gantry;
namespace fs = std::filesystem;

constexpr double kRate = 10e6; // bytes per second of one mirror

struct Result {
    double seconds = 0, ideal = 0;
    uint64_t extra = 0;
    std::array<uint64_t, 3> served{};
};

Result pull(const std::string &root, const FaultImage &image, bool one_dies) {
    FaultRegistry origin(image), a(image), b(image), c(image);
    std::array<FaultRegistry *, 3> mirrors{&a, &b, &c};
    oci::Options options;
    for (FaultRegistry *mirror : mirrors) {
        mirror->throttle(static_cast<uint64_t>(kRate));
        oci::MirrorOptions one;
        one.url = mirror->url();
        options.hosts[origin.host()].mirrors.push_back(one);
    }
    origin.throttle(1); // names only: bytes are the mirrors'
    fs::remove_all(root);
    for (const char *folder : {"/content", "/layers"})
        fs::create_directories(root + folder);
    Db db(root + "/db");
    ContentStore content(root + "/content", db, true);
    Layers layers(db, std::make_shared<VfsDriver>(root + "/layers"), "vfs", true);
    Events events;
    Images images(db, content, layers, std::make_shared<oci::OciDriver>(options), events, {}, false, 0);
    const CancelSource cancel;
    const auto size = static_cast<double>(image.layer_bytes());
    const auto total = [&] { return a.served() + b.served() + c.served(); };
    std::atomic<bool> done{false};
    uint64_t left = 0;
    const auto begin = std::chrono::steady_clock::now();
    const auto since = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    double died = 0;
    std::jthread killer([&] {
        while (one_dies && !done && static_cast<double>(total()) < size / 2)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        if (!one_dies || done) return;
        b.die();
        died = since();
        left = image.layer_bytes() - std::min(image.layer_bytes(), total());
    });
    images.pull(parse_reference(origin.name(), "docker.io", true), false, "", std::nullopt, cancel,
                [](const PullProgress &) {});
    Result out;
    out.seconds = since();
    done = true;
    killer.join();
    out.ideal = one_dies ? died + static_cast<double>(left) / (2 * kRate) : size / (3 * kRate);
    out.extra = total() + origin.served() - image.layer_bytes();
    out.served = {a.served(), b.served(), c.served()};
    fs::remove_all(root);
    return out;
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: mirror_bench DIRECTORY [MEGABYTES [ROUNDS]]\n");
        return 2;
    }
    const size_t size = (argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 200) * 1'000'000;
    const int rounds = argc > 3 ? std::atoi(argv[3]) : 3;
    const FaultImage image = make_fault_image("bench/mirrors", {{{"big", size, 1}}}, true);
    for (const bool dies : {false, true}) {
        std::vector<Result> results;
        for (int i = 0; i < rounds; ++i)
            results.push_back(pull(std::string(argv[1]) + "/mirrors", image, dies));
        std::sort(results.begin(), results.end(),
                  [](const Result &x, const Result &y) { return x.seconds / x.ideal < y.seconds / y.ideal; });
        const Result &r = results[results.size() / 2];
        std::printf("{\"case\":\"%s\",\"bytes\":%zu,\"seconds\":%.2f,\"ideal\":%.2f,\"ratio\":%.3f,"
                    "\"extra_bytes\":%llu,\"mirrors\":[%llu,%llu,%llu]}\n",
                    dies ? "one of three dies half-way" : "three mirrors", size, r.seconds, r.ideal,
                    r.seconds / r.ideal, static_cast<unsigned long long>(r.extra),
                    static_cast<unsigned long long>(r.served[0]),
                    static_cast<unsigned long long>(r.served[1]),
                    static_cast<unsigned long long>(r.served[2]));
    }
    return 0;
}
