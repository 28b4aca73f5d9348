// Pulls that survive: what a fault-injecting registry sends in all, over cuts, stalls, refusals, corruption,
// kills and restarts, is the size and at most one chunk for each incident.
#include "core/base/failpoint.h"
#include "core/content/content.h"
#include "core/events/events.h"
#include "core/image/images.h"
#include "core/layer/layers.h"
#include "core/store/db.h"
#include "oci_driver.h"
#include "plugins/storage-vfs/driver.h"
#include "tests/support/fault_registry.h"

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <thread>

namespace {

using namespace gantry;
namespace fs = std::filesystem;
using Fault = FaultRegistry::Fault;
using Request = FaultRegistry::Request;

constexpr uint64_t kMiB = 1 << 20;
// What a cut connection or a killed process may lose: what the network held, and one note of the journal.
constexpr uint64_t kChunk = kMiB;

struct Survive : ::testing::Test {
    std::string root;
    std::unique_ptr<Db> db;
    std::unique_ptr<ContentStore> content;
    std::unique_ptr<Layers> layers;
    Events events;
    std::unique_ptr<Images> images;
    CancelSource cancel;
    RegistryConfig config;
    oci::Options options;
    bool retain = false, durable = false;

    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root";
        char name[] = "/tmp/gantry-survive-XXXXXX";
        root = ::mkdtemp(name);
        options.stall_timeout_ns = 1'000'000'000;
    }
    void TearDown() override {
        close();
        if (!root.empty()) fs::remove_all(root);
    }
    void close() {
        images.reset();
        layers.reset();
        content.reset();
        db.reset();
    }
    void open() {
        close();
        for (const char *folder : {"/content", "/layers"})
            fs::create_directories(root + folder);
        db = std::make_unique<Db>(root + "/db");
        content = std::make_unique<ContentStore>(root + "/content", *db, durable,
                                                 PartialLimits{config.partial_ttl_ns, config.partial_budget});
        layers = std::make_unique<Layers>(*db, std::make_shared<VfsDriver>(root + "/layers"), "vfs", false,
                                          root + "/records");
        images = std::make_unique<Images>(*db, *content, *layers, std::make_shared<oci::OciDriver>(options),
                                          events, config, retain, 0);
        content->recover();
        layers->recover();
        images->recover();
    }
    std::vector<PullProgress> pull(const std::string &name) {
        std::vector<PullProgress> lines;
        std::mutex mutex;
        images->pull(parse_reference(name, "docker.io", true), false, "", std::nullopt, cancel,
                     [&](const PullProgress &p) {
                         std::lock_guard lock(mutex);
                         lines.push_back(p);
                     });
        return lines;
    }
    void add_mirror(const FaultRegistry &origin, const FaultRegistry &mirror) {
        oci::MirrorOptions one;
        one.url = mirror.url();
        options.hosts[origin.host()].mirrors.push_back(one);
    }
    /// Pulls in a child with its own engine on the same root. What it said at the end, or "killed".
    void pull_and_kill(const FaultRegistry &registry, uint64_t after_bytes) {
        close();
        const pid_t child = start_child(registry, "");
        registry.await_served(after_bytes);
        ::kill(child, SIGKILL);
        ::waitpid(child, nullptr, 0);
    }
    pid_t start_child(const FaultRegistry &registry, const std::string &failpoint) {
        const pid_t child = ::fork();
        if (child == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            failpoints::arm(failpoint);
            try {
                open();
                pull(registry.name());
            } catch (const std::exception &error) {
                std::cerr << "child: " << error.what() << "\n";
                ::_exit(1);
            }
            ::_exit(0);
        }
        return child;
    }
    size_t layer_rows() {
        size_t n = 0;
        db->transact([&](Db &d) {
            auto q = d.prepare("SELECT count(*) FROM layer WHERE state='ready'");
            q.step();
            n = static_cast<size_t>(q.integer(0));
        });
        return n;
    }
};

FaultImage small_image() {
    return make_fault_image("t/small", {{{"a", 300'000, 1}}, {{"b", 6'000'000, 2}}, {{"c", 200'000, 3}}});
}

struct Case {
    const char *name;
    Fault first;    // of the first request of the large layer
    uint64_t extra; // bytes beyond the size that it may cost
};

TEST_F(Survive, OneIncidentCostsAtMostOneChunk) {
    const uint64_t at = 3'500'000;
    std::vector<Case> cases = {{"cut", {}, kChunk},
                               {"stall", {}, kChunk},
                               {"ignores Range after a cut", {}, at + kChunk},
                               {"wrong Content-Range after a cut", {}, at + kChunk},
                               {"416 after a cut", {}, at + kChunk},
                               {"503", {}, 0},
                               {"429", {}, 0},
                               {"cut, then 503", {}, kChunk},
                               {"token expires and the connection is cut", {}, kChunk}};
    for (const Case &one : cases) {
        const std::string what = one.name;
        FaultImage image = small_image();
        const std::string large = image.layers[1];
        const uint64_t size = image.layer_bytes();
        FaultRegistry registry(std::move(image), [&](const Request &r) {
            Fault fault;
            if (r.digest != large) return fault;
            const bool cuts = what.find("cut") != what.npos;
            if (r.number == 1) {
                if (cuts) fault.cut_at = at;
                if (what == "stall") fault.stall_at = at;
                if (what == "503") fault.status = 503;
                if (what == "429") fault.status = 429, fault.retry_after = 1;
            } else if (r.number == 2) {
                fault.ignore_range = what.starts_with("ignores");
                fault.wrong_range = what.starts_with("wrong");
                if (what.starts_with("416")) fault.status = 416;
                if (what == "cut, then 503") fault.status = 503;
            }
            return fault;
        });
        if (what.starts_with("token")) registry.expire_tokens_after(5);
        open();
        try {
            pull(registry.name());
        } catch (const Error &error) {
            ADD_FAILURE() << what << ": " << error.message();
            continue;
        }
        EXPECT_GE(registry.served(), size) << what;
        EXPECT_LE(registry.served(), size + one.extra) << what;
        EXPECT_EQ(layer_rows(), 3u) << what;
        images->remove(registry.name(), true, true);
    }
}

TEST_F(Survive, EveryAttemptGoesOnWhereTheLastOneWasKilled) {
    FaultImage image = small_image();
    const uint64_t size = image.layer_bytes();
    FaultRegistry registry(std::move(image));
    registry.throttle(8 * kMiB); // so that what was sent has been received
    config.max_parallel_downloads = 2;
    for (const uint64_t at : {1'000'000u, 2'500'000u, 4'500'000u})
        pull_and_kill(registry, at);
    open();
    pull(registry.name());
    EXPECT_GE(registry.served(), size);
    EXPECT_LE(registry.served(), size + 3 * kChunk);
    EXPECT_EQ(layer_rows(), 3u);
    EXPECT_TRUE(content->partials().empty());
    EXPECT_TRUE(images->interrupted().empty());
}

TEST_F(Survive, KillsAtEveryStepOfThePull) {
    for (const char *point :
         {"partial.noted:3", "blob.part:20", "blob.renamed:1", "blob.renamed:3", "layer.unpacked:1",
          "layer.published:1", "layer.published:3", "image.unpublished", "image.published"}) {
        FaultImage image = small_image();
        const uint64_t size = image.layer_bytes();
        FaultRegistry registry(std::move(image));
        registry.throttle(40 * kMiB);
        close();
        int status = 0;
        ::waitpid(start_child(registry, point), &status, 0);
        EXPECT_TRUE(WIFSIGNALED(status)) << point << " was not reached";
        open();
        pull(registry.name());
        EXPECT_LE(registry.served(), size + 2 * kChunk) << point;
        EXPECT_EQ(images->list().size(), 1u);
        EXPECT_EQ(layer_rows(), 3u) << point;
        images->remove(registry.name(), true, true);
        EXPECT_EQ(layer_rows(), 0u) << point;
    }
}

TEST_F(Survive, CorruptionCostsTheGuiltyOnesBytesAndBlamesIt) {
    FaultImage image = small_image();
    const std::string large = image.layers[1];
    const uint64_t size = image.layer_bytes();
    FaultRegistry origin(image);
    FaultRegistry honest(image, [&](const Request &r) {
        Fault fault;
        if (r.digest == large && r.offset == 0)
            fault.cut_at = 4'000'000; // and is not asked again for a while
        return fault;
    });
    FaultRegistry liar(image, [&](const Request &r) {
        Fault fault;
        if (r.digest == large) fault.corrupt_at = r.offset + 1'000'000;
        return fault;
    });
    add_mirror(origin, honest);
    add_mirror(origin, liar);
    config.max_parallel_downloads = 1;
    open();
    pull(origin.name());
    const uint64_t of_large = 6'000'000 - 4'000'000;
    EXPECT_GT(liar.served(), 0u);
    EXPECT_LE(honest.served() + liar.served() + origin.served(), size + of_large + 2 * kChunk)
        << honest.served() << " + " << liar.served() << " + " << origin.served();
    EXPECT_EQ(layer_rows(), 3u);
}

TEST_F(Survive, AFlippedBitOfTheOnlyEndpointIsAskedForAgain) {
    FaultImage image = small_image();
    const std::string large = image.layers[1];
    FaultRegistry origin(std::move(image), [&](const Request &r) {
        Fault fault;
        if (r.digest == large && r.number == 1) fault.corrupt_at = 5'000;
        return fault;
    });
    open();
    pull(origin.name());
    EXPECT_EQ(layer_rows(), 3u);
    FaultImage other = small_image();
    const std::string bad = other.layers[1];
    FaultRegistry wrong(std::move(other), [&](const Request &r) {
        Fault fault;
        if (r.digest == bad) fault.corrupt_at = 5'000;
        return fault;
    });
    images->remove(origin.name(), true, true);
    try {
        pull(wrong.name());
        ADD_FAILURE() << "a wrong digest passed";
    } catch (const Error &error) {
        EXPECT_EQ(error.error_class(), ErrorClass::kDataLoss) << error.message();
    }
    EXPECT_TRUE(images->list().empty());
    // Once more for each name of it: a loopback registry is tried by https first.
    EXPECT_LE(wrong.requests() - 2, 3) << "asked again and again";
}

FaultImage large_image() { return make_fault_image("t/large", {{{"big", 24'000'000, 5}}}); }

TEST_F(Survive, RangesOverSeveralMirrors) {
    FaultImage image = large_image();
    const uint64_t size = image.layer_bytes();
    FaultRegistry origin(image), one(image), two(image);
    add_mirror(origin, one);
    add_mirror(origin, two);
    for (FaultRegistry *r : {&origin, &one, &two})
        r->throttle(16 * kMiB);
    config.range_size = 2 * kMiB;
    open();
    const auto lines = pull(origin.name());
    const uint64_t served = origin.served() + one.served() + two.served();
    EXPECT_GE(served, size);
    EXPECT_LE(served, size + 8 * kChunk) << "ranges that were taken over";
    EXPECT_GT(origin.requests() + one.requests() + two.requests(), 4) << "no ranges were asked for";
    uint64_t told = 0;
    for (const auto &line : lines)
        if (line.status == "Download complete")
            for (const auto &[endpoint, bytes] : line.sources)
                told += bytes;
    EXPECT_EQ(told, size);
    EXPECT_EQ(layer_rows(), 1u);
}

TEST_F(Survive, AMirrorThatDiesOrStallsHalfWay) {
    for (const bool stalls : {false, true}) {
        FaultImage image = large_image();
        const uint64_t size = image.layer_bytes();
        std::atomic<bool> stall{false};
        FaultRegistry origin(image);
        FaultRegistry mirror(image, [&](const Request &r) {
            Fault fault;
            if (stall) fault.stall_at = r.offset;
            return fault;
        });
        options.hosts.clear();
        add_mirror(origin, mirror);
        config.range_size = 2 * kMiB;
        mirror.throttle(8 * kMiB);
        origin.throttle(8 * kMiB);
        open();
        std::jthread killer([&] {
            mirror.await_served(4'000'000);
            stalls ? void(stall = true) : mirror.die();
        });
        pull(origin.name());
        EXPECT_LE(origin.served() + mirror.served(), size + 8 * kChunk);
        EXPECT_EQ(layer_rows(), 1u);
        images->remove(origin.name(), true, true);
    }
}

TEST_F(Survive, WithoutRangesThereIsOneStream) {
    FaultImage image = large_image();
    const uint64_t size = image.layer_bytes();
    FaultRegistry origin(std::move(image), [](const Request &) {
        Fault fault;
        fault.ignore_range = true;
        return fault;
    });
    config.range_size = 2 * kMiB;
    origin.throttle(60 * kMiB);
    open();
    pull(origin.name());
    EXPECT_LE(origin.served(), size + config.parallel_ranges * kChunk)
        << "it must not send the blob for each range";
    EXPECT_EQ(layer_rows(), 1u);
}

TEST_F(Survive, ConnectionsAreBounded) {
    std::vector<std::vector<FaultFile>> files;
    for (unsigned i = 0; i < 6; ++i)
        files.push_back({{"f" + std::to_string(i), 4'000'000, i + 10}});
    FaultRegistry origin(make_fault_image("t/many", files));
    origin.throttle(40 * kMiB);
    config.max_parallel_downloads = 3;
    config.parallel_ranges = 2;
    config.range_size = kMiB;
    open();
    pull(origin.name());
    EXPECT_LE(origin.most_connections(), 5);
    EXPECT_GE(origin.most_connections(), 3);
    EXPECT_EQ(layer_rows(), 6u);
}

TEST_F(Survive, BandwidthIsShared) {
    FaultRegistry one(make_fault_image("t/one", {{{"a", 3'000'000, 1}}}));
    FaultRegistry two(make_fault_image("t/two", {{{"b", 3'000'000, 2}}}));
    config.bandwidth = 4'000'000;
    open();
    const auto begin = std::chrono::steady_clock::now();
    {
        std::jthread other([&] { pull(two.name()); });
        pull(one.name());
    }
    const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    EXPECT_GE(took, 6.0 / 4 - 0.3);
}

TEST_F(Survive, TheOtherPullGoesOnWhenOneIsCancelled) {
    FaultImage image = small_image();
    const uint64_t size = image.layer_bytes();
    FaultRegistry registry(std::move(image));
    registry.throttle(6 * kMiB);
    open();
    CancelSource first;
    std::exception_ptr failed;
    std::jthread cancelled([&] {
        try {
            images->pull(parse_reference(registry.name(), "docker.io", true), false, "", std::nullopt, first,
                         [](const PullProgress &) {});
        } catch (...) {
            failed = std::current_exception();
        }
    });
    registry.await_served(500'000);
    std::jthread canceller([&] {
        registry.await_served(3'000'000);
        first.cancel();
    });
    bool waited = false;
    for (const auto &line : pull(registry.name()))
        waited = waited || line.status == "Waiting for another pull of this image";
    EXPECT_TRUE(waited);
    cancelled.join();
    EXPECT_TRUE(failed) << "it was over before it could be cancelled";
    EXPECT_LE(registry.served(), size + 2 * kChunk);
    EXPECT_EQ(layer_rows(), 3u);
}

TEST_F(Survive, APullRepairsAPresentImage) {
    FaultImage image = small_image();
    const std::string manifest = image.manifest_digest;
    FaultRegistry registry(std::move(image));
    retain = true;
    open();
    pull(registry.name());
    const std::string up_to_date = "Status: Image is up to date for " + registry.name(),
                      repaired = "Status: Repaired damaged image for " + registry.name();
    EXPECT_EQ(pull(registry.name()).back().status, up_to_date);
    const auto blob = [&](const std::string &digest) {
        return root + "/content/content/blobs/sha256/" + digest.substr(7);
    };
    const auto path = [&](const std::string &file) { // of the one layer that has it
        for (const auto &entry : fs::recursive_directory_iterator(root + "/layers"))
            if (entry.path().filename() == file) return entry.path().string();
        ADD_FAILURE() << file << " is in no layer";
        return std::string();
    };
    struct Damage {
        const char *name;
        std::function<void()> make;
        uint64_t least, most; // bytes of layers that the repair fetches
    };
    const std::string id = images->get(registry.name()).id;
    const std::string layer_blob = layers->get(images->get(registry.name()).top_layer).blob_digest;
    const Damage damages[] = {
        {"a file is gone", [&] { fs::remove(path("c")); }, 0, 0},
        {"a file was cut short", [&] { fs::resize_file(path("c"), 100); }, 0, 0},
        {"a file was changed", [&] { std::ofstream(path("c"), std::ios::in) << "changed"; }, 0, 0},
        {"the manifest is cut short", [&] { fs::resize_file(blob(manifest), 10); }, 0, 0},
        {"the config is changed", [&] { std::ofstream(blob(id), std::ios::in) << "X"; }, 0, 0},
        {"a retained blob is gone", [&] { fs::remove(blob(layer_blob)); }, 1, 300'000},
        {"a retained blob is cut short", [&] { fs::resize_file(blob(layer_blob), 10); }, 1, 300'000},
    };
    for (const Damage &damage : damages) {
        damage.make();
        registry.forget();
        EXPECT_EQ(pull(registry.name()).back().status, repaired) << damage.name;
        EXPECT_GE(registry.served(), damage.least) << damage.name;
        EXPECT_LE(registry.served(), damage.most) << damage.name;
        EXPECT_EQ(pull(registry.name()).back().status, up_to_date) << damage.name;
        EXPECT_EQ(fs::file_size(path("c")), 200'000u) << damage.name;
    }
    // A retained blob that is damaged where only its digest shows it, found by the layer that needs it.
    fs::remove(path("c"));
    std::ofstream(blob(layer_blob), std::ios::in) << "damage in the first bytes of the tar";
    EXPECT_EQ(pull(registry.name()).back().status, repaired);
    EXPECT_EQ(fs::file_size(path("c")), 200'000u);
    EXPECT_EQ(layer_rows(), 3u);
}

TEST_F(Survive, InterruptedPullsAreShownAndPruned) {
    FaultRegistry registry(small_image());
    registry.throttle(8 * kMiB);
    config.max_parallel_downloads = 1;
    pull_and_kill(registry, 3'000'000);
    open();
    uint64_t bytes = 0;
    bool layer = false, partial = false;
    for (const auto &part : images->interrupted()) {
        bytes += part.present;
        layer = layer || part.layer;
        partial = partial || (!part.layer && part.present > 0);
    }
    EXPECT_TRUE(partial);
    EXPECT_TRUE(layer) << "the first layer was finished";
    EXPECT_GE(bytes, 2'000'000u);
    uint64_t freed = 0;
    images->prune(true, freed);
    EXPECT_GE(freed, 2'000'000u);
    EXPECT_TRUE(images->interrupted().empty());
    EXPECT_EQ(layer_rows(), 0u);
    config.partial_ttl_ns = 0;
    registry.forget();
    pull_and_kill(registry, 2'000'000);
    open();
    EXPECT_TRUE(images->interrupted().empty()) << "none is to be kept";
}

} // namespace
