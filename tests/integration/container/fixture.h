// A whole engine without its API, in namespaces of its own: real drivers, real shims, busybox as image.
// close() and open() are a restart of the engine; containers go on meanwhile.
#pragma once

#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/container/containers.h"
#include "core/content/content.h"
#include "core/events/events.h"
#include "core/image/images.h"
#include "core/layer/layers.h"
#include "core/network/networks.h"
#include "core/runtime/runtime.h"
#include "core/store/db.h"
#include "core/volume/volumes.h"
#include "plugins/net-bridge/driver.h"
#include "plugins/storage-overlay/driver.h"

#include <gantry/error.hpp>

#include <chrono>
#include <csignal>
#include <fstream>
#include <future>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace gantry {

/// Until `ready` says true; for states that have no event.
inline bool await(const std::function<bool()> &ready, int seconds = 20) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    while (!ready()) {
        if (std::chrono::steady_clock::now() > end) return false;
        ::poll(nullptr, 0, 5);
    }
    return true;
}

struct Engine {
    EngineConfig config;
    std::unique_ptr<Db> db;
    std::unique_ptr<Events> events;
    std::unique_ptr<ContentStore> content;
    std::unique_ptr<Layers> layers;
    std::unique_ptr<Images> images;
    std::shared_ptr<NetworkDriver> network;
    std::unique_ptr<Networks> networks;
    std::unique_ptr<Volumes> volumes;
    std::unique_ptr<Runtime> runtime;
    std::unique_ptr<Containers> containers;

    void open() {
        const std::string &root = config.root;
        db = std::make_unique<Db>(root + "/gantry.db");
        events = std::make_unique<Events>();
        content = std::make_unique<ContentStore>(root, *db, false);
        layers = std::make_unique<Layers>(
            *db, std::make_shared<OverlayDriver>(root + "/overlay", OverlayDriver::Settings{}), "overlay",
            false);
        images =
            std::make_unique<Images>(*db, *content, *layers, nullptr, *events, RegistryConfig{}, false, 1);
        bridge::Settings settings;
        settings.name = "gct0";
        settings.subnet = "10.88.7.0/24";
        network = bridge::make_driver(
            {root + "/net", config.run, GANTRY_BINARY_DIR "/lib/gantry", "test0001"}, settings);
        networks = std::make_unique<Networks>(*db, network, "bridge", *events);
        volumes = std::make_unique<Volumes>(*db, *events, root);
        runtime = Runtime::make({config.shim, config.run, config.cgroup_parent, "test"});
        containers = std::make_unique<Containers>(
            Containers::Parts{db.get(), events.get(), images.get(), layers.get(), networks.get(),
                              volumes.get(), runtime.get(), &config, "overlay"});
        const auto live = containers->live_owners();
        content->recover();
        layers->recover();
        images->recover();
        volumes->recover();
        networks->recover(live);
        containers->recover();
    }
    void close() {
        containers.reset();
        runtime.reset();
        volumes.reset();
        networks.reset();
        network.reset();
        images.reset();
        layers.reset();
        content.reset();
        events.reset();
        db.reset();
    }
};

class ContainerTest : public testing::Test {
  protected:
    Engine engine;
    std::string base;

    void SetUp() override {
        if (geteuid() != 0) GTEST_SKIP() << "needs root";
        if (access("/bin/busybox", X_OK) != 0) GTEST_SKIP() << "needs a static /bin/busybox";
        ASSERT_EQ(0, unshare(CLONE_NEWNET | CLONE_NEWNS));
        ASSERT_EQ(0, mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
        ASSERT_EQ(0, system("ip link set lo up"));
        char name[] = "/tmp/gantry-ct-XXXXXX";
        base = mkdtemp(name);
        auto &c = engine.config;
        c.root = base + "/root", c.run = base + "/run";
        c.shim = GANTRY_BINARY_DIR "/lib/gantry/gantry-shim";
        c.cgroup_parent = "/gantry-ct-" + base.substr(base.size() - 6);
        c.warm_sandboxes = 0;
        for (const char *dir :
             {"/root/net", "/root/overlay", "/run", "/image/bin", "/image/etc", "/image/tmp"})
            make_directories(base + dir, 0755);
        const std::string script =
            "cd " + base +
            "/image && cp /bin/busybox bin/ && for a in sh sleep true cat ls seq touch test kill "
            "tail grep hostname ps mount echo head false; do ln -s busybox bin/$a; done && tar cf "
            "../image.tar .";
        ASSERT_EQ(0, system(script.c_str()));
        engine.open();
        std::ifstream tar(base + "/image.tar", std::ios::binary);
        engine.images->import(
            [&](void *to, size_t size) {
                tar.read(static_cast<char *>(to), static_cast<std::streamsize>(size));
                return static_cast<size_t>(tar.gcount());
            },
            parse_reference("bb:latest", "docker.io", true), "", {}, "", CancelSource());
    }
    void TearDown() override {
        if (base.empty()) return;
        if (!engine.containers) engine.open();
        for (const auto &info : engine.containers->list(true))
            try {
                engine.containers->remove(info.id, true, true);
            } catch (const Error &error) {
                ADD_FAILURE() << error.message();
            }
        const CallScope call;
        engine.network->clean(call);
        engine.close();
        const auto &parent = engine.config.cgroup_parent;
        for (const auto &name : list_directory("/sys/fs/cgroup"))
            rmdir(("/sys/fs/cgroup/" + name + parent).c_str());
        rmdir(("/sys/fs/cgroup" + parent).c_str());
        while (waitpid(-1, nullptr, WNOHANG) > 0) {
        }
        remove_tree(base);
    }

    static ContainerConfig shell(const std::string &script) {
        ContainerConfig c;
        c.image = "bb:latest";
        c.cmd = {"sh", "-c", script};
        c.network_mode = "none";
        return c;
    }
    Containers &containers() { return *engine.containers; }
    std::string run(const ContainerConfig &config, const std::string &name = "") {
        const std::string id = containers().create(name, config, "").id;
        containers().start(id);
        return id;
    }
    ContainerState state(const std::string &id) { return containers().inspect(id).state; }
    WaitResult wait(const std::string &id, WaitCondition condition = WaitCondition::kNotRunning) {
        std::promise<WaitResult> done;
        auto handle =
            containers().wait(id, condition, [&](const WaitResult &result) { done.set_value(result); });
        auto future = done.get_future();
        if (future.wait_for(std::chrono::seconds(30)) != std::future_status::ready) {
            ADD_FAILURE() << "no end of " << id;
            handle.reset();
            return {-1, "no end"};
        }
        return future.get();
    }
    std::string log(const std::string &id) {
        std::string out;
        containers().logs(id, LogQuery(), CancelSource(), [&](const LogRecord &line) {
            out += line.text;
            return true;
        });
        return out;
    }
    /// Exit code and output of a command inside.
    std::pair<int, std::string> exec(const std::string &id, const std::string &script) {
        ExecConfig config;
        config.cmd = {"sh", "-c", script};
        config.attach_stdout = config.attach_stderr = config.tty = true;
        int ends[2];
        EXPECT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
        UniqueFd ours(ends[0]);
        const std::string exec_id = containers().exec_create(id, config);
        containers().exec_start(exec_id, UniqueFd(ends[1]), false, 0, 0);
        const std::string output = read_all(ours.get(), 1 << 20, "output");
        return {containers().exec_inspect(exec_id).exit_code.value_or(-1), output};
    }
    static pid_t parent_of(pid_t pid) {
        bool found;
        const std::string text = read_file_if("/proc/" + std::to_string(pid) + "/stat", found);
        pid_t parent = 0;
        if (const auto at = text.rfind(')'); at != text.npos) sscanf(text.c_str() + at + 4, "%d", &parent);
        return parent;
    }
    std::string cgroup_file(const std::string &id, const std::string &v1, const std::string &v2) {
        const std::string below =
            engine.config.cgroup_parent + "/" + containers().inspect(id).sandbox_id + "/";
        bool found;
        for (const auto &name : list_directory("/sys/fs/cgroup")) {
            const std::string text = read_file_if("/sys/fs/cgroup/" + name + below + v1, found);
            if (found) return text;
        }
        return read_file_if("/sys/fs/cgroup" + below + v2, found);
    }
};

} // namespace gantry
