// SIGKILL before the system calls of each step: what a restarted engine restores works, and clean leaves
// nothing.
#include "network_bench.h"

#include "core/base/files.h"

#include <memory>

namespace gantry::kit {

namespace {

struct Step {
    const char *name;
    bool ports;
    void (*prepare)(NetworkBench &bench, Container &one);
    void (*work)(NetworkBench &bench, Container &one);
    /// In an engine that starts again. `one` is as it was before the step.
    void (*check)(NetworkBench &bench, Container &one);
};

void join(NetworkBench &bench, Container &one) {
    const RecordedCall call;
    call.require_ok(bench.attach(call, one.state.spec, one.state.info), "attach");
}

/// The engine knows its network and nobody on it; a stranger can do what was interrupted.
void again_from_nothing(NetworkBench &bench, Container &one) {
    bench.recover({});
    Container next = bench.join(2);
    const RecordedCall call;
    one.state.info = {};
    call.require_ok(bench.detach(call, one.state.spec), "detach of what may not be attached");
    bench.part(next);
}

const Step kSteps[] = {
    {"attach", false, [](NetworkBench &, Container &) {}, join, again_from_nothing},
    {"publish", true, join,
     [](NetworkBench &bench, Container &one) {
         bench.settle(one, {published(18080, 80), published(18081, 81)});
     },
     [](NetworkBench &bench, Container &one) {
         join(bench, one); // what the engine wrote down; the same address again
         one.state.ports.clear();
         bench.recover({&one});
         const UniqueFd web = listen_in(one.netns.get(), 80);
         require(!reaches("192.0.2.1", 18080, web),
                 "restore: a port that was never reported leads somewhere");
         bench.settle(one, {published(18080, 80)});
         require(reaches("192.0.2.1", 18080, web), "publish after a kill does not lead to the container");
         bench.part(one);
     }},
    {"detach", false,
     [](NetworkBench &bench, Container &one) {
         join(bench, one);
         if (bench.caps().ports) bench.settle(one, {published(18080, 80)});
     },
     [](NetworkBench &bench, Container &one) { bench.part(one); }, again_from_nothing},
};

void kill_in(const Step &step, const Subject &subject, const std::string &dir) {
    on_own_host(subject);
    const std::string before = network_state();
    {
        make_directories(dir + "/first", 0755); // says why, if the driver does not work here
        NetworkBench bench(subject, dir + "/first");
        if (step.ports && !bench.caps().ports) throw Skipped("the driver publishes no ports");
    }
    kill_at_each_call(24, [&](size_t n, size_t &total) {
        const std::string place = dir + "/" + step.name + std::to_string(n);
        make_directories(place, 0755);
        Container one; // here, because a container outlives the engine
        std::unique_ptr<NetworkBench> killed;
        const bool hit = kill_before_call(
            n,
            [&] {
                killed = std::make_unique<NetworkBench>(subject, place);
                killed->make();
                one.state.spec = endpoint_spec(*killed, 1, one.netns.get());
                step.prepare(*killed, one);
            },
            [&] { step.work(*killed, one); }, total);
        try {
            NetworkBench bench(subject, place);
            bench.make();
            one.state.spec = endpoint_spec(bench, 1, one.netns.get());
            step.check(bench, one);
            const RecordedCall call;
            call.require_ok(bench.clean(call), "clean");
            require(network_state() == before, "clean leaves on the host:\n" + network_state());
        } catch (const std::exception &failed) {
            throw Failed("killed before system call " + std::to_string(n) + " of " + step.name + ": " +
                         failed.what());
        }
        remove_tree(place);
        return hit;
    });
}

} // namespace

std::vector<Case> network_kill_cases() {
    constexpr int kKind = GANTRY_KIND_NETWORK;
    return {
        {"network.kill-attach", "a kill in attach leaves nothing that restore and clean do not end", kKind,
         true, [](const Subject &s, const std::string &dir) { kill_in(kSteps[0], s, dir); }, 180},
        {"network.kill-publish", "a kill in publish leaves no port that nobody knows", kKind, true,
         [](const Subject &s, const std::string &dir) {
             make_directories(dir + "/asked", 0755);
             if (!NetworkBench(s, dir + "/asked").caps().ports)
                 throw Skipped("the driver publishes no ports");
             kill_in(kSteps[1], s, dir);
         },
         180},
        {"network.kill-detach", "a kill in detach leaves something that can be detached", kKind, true,
         [](const Subject &s, const std::string &dir) { kill_in(kSteps[2], s, dir); }, 180},
    };
}

} // namespace gantry::kit
