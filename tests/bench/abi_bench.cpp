// What a call of a plugin costs over a direct call of the same driver, by isolation. Medians over rounds in
// one run, the ways taking turns within each round so that a slow moment hits all of them.
//   abi_bench PLUGIN_DIR [ROUNDS]
#include "core/base/cancel.h"
#include "core/base/files.h"
#include "core/plugin/host.h"
#include "tests/bench/abi_driver.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

using namespace gantry;

namespace {

struct Way {
    std::string name;
    StorageDriver *driver;
    int calls; // in one round: short enough that a busy machine leaves most rounds alone
    std::vector<double> small{}, large{};
};

double median(std::vector<double> &values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

double per_call(int calls, const std::function<void()> &call) {
    const int64_t before = Call::now_ns();
    for (int i = 0; i < calls; ++i)
        call();
    return static_cast<double>(Call::now_ns() - before) / calls;
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2) {
        fputs("usage: abi_bench PLUGIN_DIR [ROUNDS]\n", stderr);
        return 2;
    }
    const int rounds = argc > 2 ? atoi(argv[2]) : 501;
    char path[] = "/tmp/gantry-abi-bench-XXXXXX";
    const std::string dir = ::mkdtemp(path);
    BenchDriver direct;
    StorageDriver *volatile hidden = &direct; // else the compiler calls it without the table
    std::vector<Way> ways{{"direct (linked in)", hidden, 2000}};
    std::vector<std::shared_ptr<const EngineSettings>> settings;
    std::vector<std::unique_ptr<PluginHost>> hosts;
    std::vector<std::shared_ptr<StorageDriver>> drivers;
    for (const auto &[isolation, calls] :
         {std::pair{"none", 2000}, std::pair{"thread", 20}, std::pair{"process", 20}}) {
        settings.push_back(EngineSettings::load({.file = "",
                                                 .flags = {{"engine.root", dir + "/" + isolation},
                                                           {"engine.run", dir + "/run-" + isolation},
                                                           {"engine.plugin_dirs", argv[1]},
                                                           {"storage.driver", "bench"},
                                                           {"storage.bench.isolation", isolation}}}));
        hosts.push_back(std::make_unique<PluginHost>(*settings.back(), nullptr));
        drivers.push_back(hosts.back()->storage());
        ways.push_back({std::string("isolation = \"") + isolation + "\"", drivers.back().get(), calls});
    }
    // As the core calls: with a deadline of its own.
    CallScope::Settings with;
    with.timeout_ns = 3600ll * 1000000000;
    const CallScope scope(with);
    const std::string id(64, 'i');
    const LayerIds parents(64, std::string(64, 'p'));
    uint64_t seen = 0;
    for (int round = 0; round < rounds; ++round)
        for (Way &way : ways) {
            way.small.push_back(per_call(way.calls, [&] { seen += way.driver->usage(scope, id).bytes; }));
            way.large.push_back(per_call(std::max(way.calls / 50, 20), [&] {
                seen += way.driver->mounts(scope, id, parents, true).size();
            }));
        }
    const double base_small = median(ways[0].small), base_large = median(ways[0].large);
    printf("median of %d rounds       %14s %14s   %18s %14s\n", rounds, "usage", "over direct",
           "mounts, 64 parents", "over direct");
    for (Way &way : ways) {
        const double small = median(way.small), large = median(way.large);
        printf("%-24s %12.0f ns %11.0f ns   %15.0f ns %11.0f ns\n", way.name.c_str(), small,
               small - base_small, large, large - base_large);
    }
    const double over = median(ways[1].small) - base_small;
    printf("a call through the ABI: %.0f ns over a direct one (limit 100 ns): %s\n", over,
           over <= 100 ? "kept" : "MISSED");
    drivers.clear();
    hosts.clear();
    remove_tree(dir);
    return seen == 0 || over > 100;
}
