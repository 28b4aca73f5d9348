// Pull, run through everything real: docker-registry on a loopback port, an image made by umoci and pushed by
// skopeo, the driver, the content store, layers and a storage driver.
#include "core/content/content.h"
#include "core/events/events.h"
#include "core/image/images.h"
#include "core/layer/layers.h"
#include "core/store/db.h"
#include "oci_driver.h"
#include "plugins/storage-overlay/driver.h"
#include "plugins/storage-vfs/driver.h"
#include "tests/unit/registry/fault_server.h"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <set>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>

namespace {

using namespace gantry;
namespace fs = std::filesystem;

int run(const std::string &command) {
    const int status = std::system((command + " >/dev/null 2>&1").c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int free_port() {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    ::bind(fd, reinterpret_cast<sockaddr *>(&address), size);
    ::getsockname(fd, reinterpret_cast<sockaddr *>(&address), &size);
    ::close(fd);
    return ntohs(address.sin_port);
}

std::string missing_tool() {
    for (const char *tool : {"docker-registry", "umoci", "skopeo"})
        if (run(std::string("command -v ") + tool) != 0) return std::string(tool) + " is not installed";
    if (!fs::exists("/bin/busybox") && !fs::exists("/usr/bin/busybox")) return "busybox is not installed";
    return "";
}

/// A registry with bb:v1 (two layers) and bb:v2 (three, sharing them); shared by all tests of the program.
struct Registry {
    std::string folder, host;
    pid_t pid = -1;
    Registry() {
        char name[] = "/tmp/gantry-image-XXXXXX";
        folder = ::mkdtemp(name);
        host = "127.0.0.1:" + std::to_string(free_port());
        std::ofstream(folder + "/config.yml") << "version: 0.1\nlog: {level: error}\nstorage: {filesystem: "
                                                 "{rootdirectory: "
                                              << folder << "/data}}\nhttp: {addr: \"" << host << "\"}\n";
        pid = ::fork();
        if (pid == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            const std::string config = folder + "/config.yml";
            const std::string log = folder + "/log";
            if (!std::freopen(log.c_str(), "w", stderr) || !std::freopen(log.c_str(), "a", stdout))
                ::_exit(126);
            ::execlp("docker-registry", "docker-registry", "serve", config.c_str(), nullptr);
            ::_exit(127);
        }
        const std::string script =
            "set -e; cd " + folder +
            "; umoci init --layout img; umoci new --image img:v1; umoci unpack --image img:v1 b; "
            "mkdir -p b/rootfs/bin b/rootfs/etc; cp $(command -v busybox) b/rootfs/bin/busybox; "
            "ln -s busybox b/rootfs/bin/sh; umoci repack --image img:v1 b; rm -rf b; "
            "umoci unpack --image img:v1 b; echo one > b/rootfs/etc/one; "
            "head -c 8000000 /dev/urandom > b/rootfs/big; umoci repack --image img:v1 b; rm -rf b; "
            "umoci unpack --image img:v1 b; rm b/rootfs/etc/one; echo two > b/rootfs/etc/two; "
            "umoci repack --image img:v2 b; "
            "umoci config --image img:v1 --config.cmd /bin/sh --config.env A=b; "
            "for t in v1 v2; do skopeo copy --retry-times 20 --dest-tls-verify=false "
            "oci:img:$t docker://" +
            host + "/t/bb:$t; done";
        ready = run("bash -c '" + script + "'") == 0;
    }
    ~Registry() {
        ::kill(pid, SIGKILL);
        ::waitpid(pid, nullptr, 0);
        fs::remove_all(folder);
    }
    bool ready = false;
    static Registry &get() {
        static Registry registry;
        return registry;
    }
};

class ImagePull : public ::testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        if (const auto missing = missing_tool(); !missing.empty()) GTEST_SKIP() << missing;
        if (::geteuid() != 0) GTEST_SKIP() << "needs root";
        ASSERT_TRUE(Registry::get().ready) << "could not fill the registry";
        open();
    }
    void open(bool retain = false, oci::Options options = {}, uint32_t downloads = 4) {
        images.reset();
        layers.reset();
        if (root.empty()) {
            char name[] = "/tmp/gantry-image-root-XXXXXX";
            root = ::mkdtemp(name);
        }
        db = std::make_unique<Db>(root + "/db");
        fs::create_directories(root + "/content");
        fs::create_directories(root + "/layers");
        content = std::make_unique<ContentStore>(root + "/content", *db, false);
        std::shared_ptr<StorageDriver> driver;
        if (GetParam() == "overlay") {
            try {
                driver = std::make_shared<OverlayDriver>(root + "/layers", OverlayDriver::Settings{});
            } catch (const Error &error) {
                GTEST_SKIP() << "no overlay here: " << error.message();
            }
        } else {
            driver = std::make_shared<VfsDriver>(root + "/layers");
        }
        layers = std::make_unique<Layers>(*db, driver, GetParam(), false);
        RegistryConfig config;
        config.max_parallel_downloads = downloads;
        images = std::make_unique<Images>(*db, *content, *layers, std::make_shared<oci::OciDriver>(options),
                                          events, config, retain, 0);
    }
    void TearDown() override {
        images.reset();
        layers.reset();
        content.reset();
        db.reset();
        if (!root.empty()) fs::remove_all(root);
    }
    std::vector<PullProgress> pull(const std::string &name) {
        std::vector<PullProgress> lines;
        images->pull(parse_reference(name, "docker.io", true), false, "", std::nullopt, cancel,
                     [&](const PullProgress &p) { lines.push_back(p); });
        return lines;
    }
    size_t layer_count() {
        size_t n = 0;
        db->transact([&](Db &d) {
            auto q = d.prepare("SELECT count(*) FROM layer");
            q.step();
            n = static_cast<size_t>(q.integer(0));
        });
        return n;
    }
    std::string name(const std::string &tag) { return Registry::get().host + "/t/bb:" + tag; }

    std::string root;
    std::unique_ptr<Db> db;
    std::unique_ptr<ContentStore> content;
    std::unique_ptr<Layers> layers;
    Events events;
    CancelSource cancel;
    std::unique_ptr<Images> images;
};

std::set<std::string> statuses(const std::vector<PullProgress> &lines) {
    std::set<std::string> out;
    for (const auto &line : lines)
        out.insert(line.status);
    return out;
}

TEST_P(ImagePull, PullShareTagAndRemove) {
    const auto begin = std::chrono::steady_clock::now();
    auto lines = pull(name("v1"));
    const auto took = std::chrono::steady_clock::now() - begin;
    RecordProperty("pull_ms",
                   static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(took).count()));
    std::cout << "pull of 2 layers: " << std::chrono::duration_cast<std::chrono::milliseconds>(took).count()
              << " ms\n";
    EXPECT_EQ(lines.front().status, "Pulling from t/bb");
    EXPECT_EQ(lines.back().status, "Status: Downloaded newer image for " + name("v1"));
    EXPECT_TRUE(statuses(lines).contains("Pull complete"));
    EXPECT_EQ(pull(name("v1")).back().status, "Status: Image is up to date for " + name("v1"));

    const auto one = images->get(name("v1"));
    EXPECT_EQ(one.config.env.back(), "A=b");
    EXPECT_EQ(one.repo_tags, std::vector<std::string>{name("v1")});
    EXPECT_EQ(one.repo_digests.size(), 1u);
    EXPECT_EQ(one.diff_ids.size(), 2u);
    EXPECT_EQ(images->get(one.id.substr(7, 12)).id, one.id);
    EXPECT_EQ(images->get(one.repo_digests[0]).id, one.id);
    EXPECT_GE(one.size, 8000000u);
    EXPECT_FALSE(images->history(name("v1")).empty());

    lines = pull(name("v2"));
    EXPECT_TRUE(statuses(lines).contains("Already exists"));
    EXPECT_EQ(layer_count(), 3u);
    for (const auto &digest : content->list())
        EXPECT_LT(content->size(digest), 100000u) << "a layer blob was kept";

    images->tag(name("v1"), parse_reference("mine:x", "docker.io", true));
    auto gone = images->remove("mine:x", false, true);
    ASSERT_EQ(gone.size(), 1u);
    EXPECT_EQ(gone[0].untagged, "mine:x");
    gone = images->remove(name("v1"), false, true);
    EXPECT_EQ(gone[0].untagged, name("v1"));
    EXPECT_THROW(images->get(name("v1")), Error);
    EXPECT_EQ(layer_count(), 3u) << "v2 still uses them";
    images->remove(images->get(name("v2")).id, false, true);
    EXPECT_EQ(layer_count(), 0u);
    EXPECT_TRUE(content->list().empty());
}

TEST_P(ImagePull, NotFoundBeforeAnyLine) {
    try {
        pull(name("nope"));
        ADD_FAILURE();
    } catch (const Error &error) {
        EXPECT_EQ(error.error_class(), ErrorClass::kNotFound);
        EXPECT_NE(error.message().find("not found: manifest unknown"), std::string::npos) << error.message();
    }
    EXPECT_TRUE(images->list().empty());
}

TEST_P(ImagePull, ConcurrentPullsOfTheSameAndOfSharedLayers) {
    std::vector<std::string> failures;
    std::mutex mutex;
    {
        std::vector<std::jthread> threads;
        for (int i = 0; i < 6; ++i)
            threads.emplace_back([&, i] {
                try {
                    pull(name(i % 2 ? "v1" : "v2"));
                } catch (const std::exception &error) {
                    std::lock_guard lock(mutex);
                    failures.push_back(error.what());
                }
            });
    }
    EXPECT_TRUE(failures.empty()) << failures.front();
    EXPECT_EQ(layer_count(), 3u);
    EXPECT_EQ(images->list().size(), 2u);
}

TEST_P(ImagePull, CancelLeavesNothingVisibleAndTheNextPullWorks) {
    bool began = false;
    try {
        images->pull(parse_reference(name("v1"), "docker.io", true), false, "", std::nullopt, cancel,
                     [&](const PullProgress &p) {
                         if (p.status == "Downloading") {
                             began = true;
                             cancel.cancel();
                         }
                     });
        ADD_FAILURE() << "not cancelled";
    } catch (const Error &error) {
        EXPECT_EQ(error.error_class(), ErrorClass::kCancelled) << error.message();
    }
    EXPECT_TRUE(began);
    EXPECT_TRUE(images->list().empty());
    CancelSource fresh;
    images->pull(parse_reference(name("v1"), "docker.io", true), false, "", std::nullopt, fresh,
                 [](const PullProgress &) {});
    EXPECT_EQ(images->list().size(), 1u);
}

TEST_P(ImagePull, UsedImageIsNotRemoved) {
    pull(name("v1"));
    const auto info = images->get(name("v1"));
    db->transact([&](Db &d) {
        auto q = d.prepare("INSERT INTO container(id, name, phase, image, config, state, created) "
                           "VALUES(?, 'c', 'ready', ?, '{}', '{\"running\":true}', 0)");
        q.bind_all("cbba33b2f7d6" + std::string(52, '0'), info.id);
        q.run();
    });
    auto message = [&](const std::string &what, bool force) -> std::string {
        try {
            images->remove(what, force, true);
        } catch (const Error &error) {
            EXPECT_EQ(error.error_class(), ErrorClass::kFailedPrecondition);
            return error.message();
        }
        return "removed";
    };
    const std::string short_id = info.id.substr(7, 12);
    EXPECT_EQ(message(name("v1"), false),
              "conflict: unable to remove repository reference \"" + name("v1") +
                  "\" (must force) - container cbba33b2f7d6 is using its referenced image " + short_id);
    EXPECT_EQ(message(info.id, true),
              "conflict: unable to delete " + short_id +
                  " (cannot be forced) - image is being used by running container cbba33b2f7d6");
    images->tag(name("v1"), parse_reference("other:x", "docker.io", true));
    db->transact([](Db &d) { d.prepare("DELETE FROM container").run(); });
    EXPECT_EQ(message(info.id, false),
              "conflict: unable to delete " + short_id +
                  " (must be forced) - image is referenced in multiple repositories");
    EXPECT_EQ(message(info.id, true), "removed");
    EXPECT_EQ(layer_count(), 0u);
}

/// Options with one mirror before the test registry.
oci::Options with_mirror(const std::string &url) {
    oci::Options options;
    oci::MirrorOptions mirror;
    mirror.url = url;
    mirror.rights.resolve_tags = false;
    options.hosts[Registry::get().host].mirrors.push_back(mirror);
    return options;
}

std::string blob_path(const FaultRequest &request) {
    const auto at = request.path.find("/blobs/sha256:");
    if (at == std::string::npos) return "";
    const std::string hex = request.path.substr(at + 14);
    return Registry::get().folder + "/data/docker/registry/v2/blobs/sha256/" + hex.substr(0, 2) + "/" + hex +
           "/data";
}

// A mirror that lied rests, so how many blobs it is asked for depends on how many downloads had begun: with
// one at a time it is one, with several at least one.
TEST_P(ImagePull, LyingMirrorCannotChangeWhatIsPulled) {
    for (const bool layers_only : {true, false}) {
        for (const uint32_t downloads : {1u, 4u}) {
            std::atomic<int> lies{0};
            FaultServer mirror([&](const FaultRequest &request) -> FaultReply {
                const std::string path = blob_path(request);
                if (path.empty() || (layers_only && fs::file_size(path) < 100000))
                    return {404, "", {}, std::string::npos, false};
                ++lies;
                return {200, std::string(fs::file_size(path), 'x'), {}, std::string::npos, false};
            });
            open(false, with_mirror(mirror.url()), downloads);
            pull(name("v1"));
            EXPECT_GE(lies, 1);
            EXPECT_LE(lies, layers_only ? int(downloads) : 1); // the config comes before the layers
            EXPECT_EQ(images->get(name("v1")).config.env.back(), "A=b");
            EXPECT_EQ(layer_count(), 2u);
            images->remove(name("v1"), false, true);
        }
    }
}

TEST_P(ImagePull, MirrorThatBreaksOffIsContinuedByTheRegistry) {
    FaultServer mirror([&](const FaultRequest &request) -> FaultReply {
        const std::string path = blob_path(request);
        if (path.empty()) return {404, "", {}, std::string::npos, false};
        std::ifstream in(path, std::ios::binary);
        FaultReply reply;
        reply.body.assign(std::istreambuf_iterator<char>(in), {});
        reply.cut_after = reply.body.size() / 2;
        return reply;
    });
    open(false, with_mirror(mirror.url()));
    pull(name("v1"));
    EXPECT_FALSE(mirror.seen().empty());
    EXPECT_EQ(layer_count(), 2u);
}

TEST_P(ImagePull, RetainedBlobsStayAndServeTheNextPull) {
    open(true);
    pull(name("v1"));
    size_t large = 0;
    for (const auto &digest : content->list())
        large += content->size(digest) > 100000;
    EXPECT_EQ(large, 2u);
}

TEST_P(ImagePull, ImportOfATar) {
    const std::string folder = root + "/tree";
    fs::create_directories(folder + "/etc");
    std::ofstream(folder + "/etc/x") << "hello";
    ASSERT_EQ(run("tar -C " + folder + " -czf " + root + "/t.tgz ."), 0);
    std::ifstream in(root + "/t.tgz", std::ios::binary);
    const auto id = images->import(
        [&](void *buffer, size_t size) {
            in.read(static_cast<char *>(buffer), static_cast<std::streamsize>(size));
            return static_cast<size_t>(in.gcount());
        },
        parse_reference("imported:v1", "docker.io", true), "", {"CMD [\"/bin/x\"]"}, "", cancel);
    const auto info = images->get("imported:v1");
    EXPECT_EQ(info.id, id);
    EXPECT_EQ(info.config.cmd, std::vector<std::string>{"/bin/x"});
    EXPECT_EQ(info.comment, "Imported from -");
    images->remove("imported:v1", false, true);
    EXPECT_EQ(layer_count(), 0u);
}

// For measurements: GANTRY_PULL=host:port/name:tag, --gtest_also_run_disabled_tests.
TEST_P(ImagePull, DISABLED_TimeOfOnePull) {
    const char *what = std::getenv("GANTRY_PULL");
    if (!what) GTEST_SKIP() << "GANTRY_PULL names no image";
    const auto begin = std::chrono::steady_clock::now();
    pull(what);
    const auto took = std::chrono::steady_clock::now() - begin;
    std::cout << GetParam() << ": " << std::chrono::duration_cast<std::chrono::milliseconds>(took).count()
              << " ms for " << images->get(what).size << " bytes\n";
}

INSTANTIATE_TEST_SUITE_P(Drivers, ImagePull, ::testing::Values("overlay", "vfs"),
                         [](const auto &info) { return info.param; });

} // namespace
