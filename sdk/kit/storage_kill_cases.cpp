// SIGKILL before each system call of each step: what a restarted engine finds is the whole thing or nothing.
#include "storage_bench.h"

#include "core/base/files.h"

#include <memory>
#include <sys/mount.h>
#include <unistd.h>

namespace gantry::kit {

namespace {

struct Step {
    const char *name;
    /// What is there before the step; runs in the process that will be killed.
    void (*prepare)(StorageBench &bench);
    void (*work)(StorageBench &bench);
    /// Looks at what is left, in an engine that starts again.
    void (*check)(StorageBench &bench);
};

void fill(int root) {
    for (const char *name : {"a", "b", "c"})
        write_file(root, name, name);
}

void whole(StorageBench &bench, const std::string &id, const LayerIds &parents, const std::string &what) {
    const UniqueFd tree = bench.view(id, parents, true);
    for (const std::string name : {"a", "b", "c"})
        require(read_file_at(tree.get(), name) == name,
                what + ": layer " + id + " is listed and has lost " + name);
}

/// Every id that is listed can be removed, and then nothing is left of it.
void sweep(StorageBench &bench, const std::set<std::string> &spared) {
    for (const std::string &id : bench.list())
        if (!spared.contains(id)) bench.drop(id);
    require(bench.list() == spared, "what is left after a kill cannot be removed");
    for (const std::string &id : spared)
        whole(bench, id, {}, "beside a kill");
}

const Step kSteps[] = {
    {"create", [](StorageBench &bench) { bench.layer("base", {}, fill); },
     [](StorageBench &bench) { bench.make("top", {"base"}); },
     [](StorageBench &bench) {
         if (bench.list().contains("top")) whole(bench, "top", {"base"}, "create");
         sweep(bench, {"base"});
         // The id is free again for the core's own bookkeeping; another one works.
         bench.make("next", {"base"});
         whole(bench, "next", {"base"}, "create after a kill");
         bench.drop("next");
     }},
    {"commit",
     [](StorageBench &bench) {
         bench.layer("base", {}, fill);
         bench.make("top", {"base"});
         write_file(bench.view("top", {"base"}, false).get(), "own", "own");
     },
     [](StorageBench &bench) { bench.seal("top", {"base"}); },
     [](StorageBench &bench) {
         require(bench.list().contains("top"), "commit: a kill lost the layer");
         bench.seal("top", {"base"}); // the engine repeats what it cannot know to be done
         whole(bench, "top", {"base"}, "commit");
         require(read_file_at(bench.view("top", {"base"}, true).get(), "own") == "own",
                 "commit: a kill lost a file");
         sweep(bench, {"base"});
     }},
    {"remove",
     [](StorageBench &bench) {
         bench.layer("base", {}, fill);
         bench.make("top", {"base"});
         write_file(bench.view("top", {"base"}, false).get(), "own", "own");
     },
     [](StorageBench &bench) { bench.drop("top"); },
     [](StorageBench &bench) {
         bench.drop("top");
         sweep(bench, {"base"});
     }},
};

void kill_in(const Step &step, const Subject &subject, const std::string &dir) {
    {
        make_directories(dir + "/first", 0755); // says why, if the driver does not work here
        StorageBench bench(subject, dir + "/first");
    }
    kill_at_each_call(60, [&](size_t n, size_t &total) {
        const std::string place = dir + "/" + step.name + std::to_string(n);
        make_directories(place, 0755);
        std::unique_ptr<StorageBench> killed; // of the child alone
        const bool hit = kill_before_call(
            n,
            [&] {
                killed = std::make_unique<StorageBench>(subject, place);
                step.prepare(*killed);
            },
            [&] { step.work(*killed); }, total);
        const std::string where =
            "killed before system call " + std::to_string(n) + " of " + step.name + ": ";
        try {
            StorageBench bench(subject, place);
            step.check(bench);
        } catch (const Failed &failed) {
            throw Failed(where + failed.what());
        } catch (const Error &error) {
            throw Failed(where + error.message());
        }
        // A driver may keep its layers in a file system that it mounted; the namespace is the case's own.
        for (const std::string &below : list_directory(place + "/run"))
            umount2((place + "/run/" + below).c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
        remove_tree(place);
        return hit;
    });
}

} // namespace

std::vector<Case> storage_kill_cases() {
    constexpr int kKind = GANTRY_KIND_STORAGE;
    return {
        {"storage.kill-create", "a kill in create leaves the whole layer or nothing", kKind, true,
         [](const Subject &s, const std::string &dir) { kill_in(kSteps[0], s, dir); }, 180},
        {"storage.kill-commit", "a kill in commit loses nothing", kKind, true,
         [](const Subject &s, const std::string &dir) { kill_in(kSteps[1], s, dir); }, 180},
        {"storage.kill-remove", "a kill in remove leaves something that can be removed", kKind, true,
         [](const Subject &s, const std::string &dir) { kill_in(kSteps[2], s, dir); }, 180},
    };
}

} // namespace gantry::kit
