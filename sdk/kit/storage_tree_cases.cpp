// Exact fidelity, with a plain directory as the oracle: both get the very same edits, random ones from fixed
// seeds among them, and a failure prints the edits and the difference of the trees.
#include "edits.h"
#include "storage_bench.h"
#include "trees.h"

#include "core/base/files.h"
#include "core/layer/changes.h"
#include "core/layer/layers.h"
#include "core/layer/tar_writer.h"
#include "core/layer/tree_tar.h"

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry::kit {

namespace {

using Kinds = std::map<std::string, int>;
using Text = std::map<std::string, std::string>;

std::string proc(const UniqueFd &tree) { return "/proc/self/fd/" + std::to_string(tree.get()) + "/."; }

Text described(const std::string &path, bool times = true) {
    Text out = describe(path, times);
    // The time of the root is the time it was made.
    std::string &line = out["/"];
    line.resize(std::min(line.find(' ', line.find(',')), line.size()));
    return out;
}

/// By path, and in an order in which it can be applied.
Kinds ordered(const std::vector<Change> &list, const std::string &whose) {
    Kinds all, seen;
    for (const Change &change : list)
        require(all.emplace(change.path, change.kind).second, whose + " tells " + change.path + " twice");
    for (const Change &change : list) {
        require(change.path.starts_with("/"),
                whose + " tells \"" + change.path + "\", which is not absolute");
        seen.emplace(change.path, 0);
        const std::string above = change.path.substr(0, change.path.rfind('/'));
        require(!all.contains(above) || seen.contains(above),
                whose + " tells " + change.path + " before its parent");
    }
    return all;
}

std::string difference_of(const Kinds &wanted, const Kinds &got) {
    static constexpr const char *kNames[] = {"modified", "added", "deleted"};
    Text a, b;
    for (const auto &[path, kind] : wanted)
        a[path] = kNames[kind];
    for (const auto &[path, kind] : got)
        b[path] = kNames[kind];
    return difference(a, b);
}

/// The referee: a walk of both trees.
std::vector<Change> walked(StorageBench &bench, const std::string &id, const LayerIds &chain) {
    const UniqueFd upper = bench.view(id, chain, true);
    UniqueFd lower;
    if (!chain.empty()) lower = bench.view(chain[0], LayerIds(chain.begin() + 1, chain.end()), true);
    const RecordedCall call;
    return compare_trees(chain.empty() ? -1 : lower.get(), upper.get(), Call(call.raw()));
}

/// What the engine would use.
std::vector<Change> best_changes(StorageBench &bench, const std::string &id, const LayerIds &chain) {
    return bench.has_changes() ? bench.changes_of(id, chain) : walked(bench, id, chain);
}

/// As a pull does it: apart from its parents where the driver can.
void apply(StorageBench &bench, const std::string &id, const LayerIds &chain, const std::string &tar) {
    const gantry_storage_caps caps = bench.caps();
    const LayerIds below = caps.independent_layers ? LayerIds{} : chain;
    bench.make(id, below);
    {
        const UniqueFd to = bench.view(id, below, false);
        const RecordedCall call;
        size_t at = 0;
        unpack_layer(
            [&](void *out, size_t size) {
                const size_t n = std::min(size, tar.size() - at);
                memcpy(out, tar.data() + at, n);
                at += n;
                return n;
            },
            to.get(), caps.whiteout, UnpackLimits{}, Call(call.raw()));
    }
    bench.seal(id, chain);
}

std::string layer_tar(StorageBench &bench, const std::string &id, const LayerIds &chain,
                      const std::vector<Change> &changes) {
    std::string tar;
    const UniqueFd from = bench.view(id, chain, true);
    write_changes_tar(from.get(), changes,
                      [&](const void *p, size_t n) { tar.append(static_cast<const char *>(p), n); }, {});
    return tar;
}

struct Generation {
    std::string id;
    LayerIds chain; // below it
    Text wanted;    // what the plain directory shows
    std::string told;
};

/// Layers of random edits on each other. `judge` looks at an active layer and answers the committed one that
/// the next stands on.
void play(const Subject &subject, const std::string &dir,
          const std::function<std::string(StorageBench &, const Generation &)> &judge) {
    StorageBench bench(subject, dir);
    for (unsigned seed = 1; seed <= 2; ++seed) {
        std::mt19937 random(seed);
        const std::string plain = dir + "/plain" + std::to_string(seed);
        make_directories(plain, 0755);
        const UniqueFd oracle = open_file(plain, O_RDONLY | O_DIRECTORY);
        LayerIds chain;
        for (int generation = 0; generation < 4; ++generation) {
            Generation now;
            now.id = "e" + std::to_string(seed) + "x" + std::to_string(generation);
            now.chain = chain;
            const std::vector<Edit> edits = random_edits(random, oracle.get(), generation == 0 ? 60 : 25);
            now.told = "\nafter these edits (seed " + std::to_string(seed) + ", layer " +
                       std::to_string(generation) + "):\n";
            for (const Edit &edit : edits)
                now.told += "  " + edit.text() + "\n";
            bench.make(now.id, chain);
            {
                const UniqueFd tree = bench.view(now.id, chain, false);
                for (const Edit &edit : edits)
                    require(edit.apply(tree.get()),
                            "the layer refuses " + edit.text() + ": " + strerror(errno) + now.told);
            }
            now.wanted = described(plain);
            chain.insert(chain.begin(), judge(bench, now));
        }
    }
}

void shows_what_was_written(const Subject &subject, const std::string &dir) {
    play(subject, dir, [](StorageBench &bench, const Generation &now) {
        const auto look = [&](const char *state) {
            const std::string wrong =
                difference(now.wanted, described(proc(bench.view(now.id, now.chain, true))));
            require(wrong.empty(), std::string(state) +
                                       " layer shows another tree than a plain directory (-: wanted, +: "
                                       "shown):\n" +
                                       wrong + now.told);
        };
        look("an active");
        bench.seal(now.id, now.chain);
        look("a committed");
        return now.id;
    });
}

void diff_agrees_with_a_walk(const Subject &subject, const std::string &dir) {
    play(subject, dir, [](StorageBench &bench, const Generation &now) {
        if (!bench.has_changes()) throw Skipped("the driver has no " GANTRY_STORAGE_DIFF_1);
        const Kinds walk = ordered(walked(bench, now.id, now.chain), "the walk");
        for (const bool committed : {false, true}) {
            if (committed) bench.seal(now.id, now.chain);
            const Kinds own = ordered(bench.changes_of(now.id, now.chain), "changes");
            const std::string wrong = difference_of(walk, own);
            require(wrong.empty(),
                    "changes differs from a walk of both trees (-: walk, +: changes):\n" + wrong + now.told);
        }
        return now.id;
    });
}

void diff_and_apply_rebuild(const Subject &subject, const std::string &dir) {
    int turn = 0;
    play(subject, dir, [&](StorageBench &bench, const Generation &now) {
        const std::string rebuilt = "r" + now.id;
        apply(bench, rebuilt, now.chain,
              layer_tar(bench, now.id, now.chain, best_changes(bench, now.id, now.chain)));
        const std::string wrong =
            difference(now.wanted, described(proc(bench.view(rebuilt, now.chain, true))));
        require(wrong.empty(),
                "a layer made from the diff shows another tree (-: wanted, +: shown):\n" + wrong + now.told);
        // Further layers stand on the rebuilt one and on the original by turns.
        if (++turn % 2) return rebuilt;
        bench.seal(now.id, now.chain);
        return now.id;
    });
}

// What a diff leaves out, and what it must not.
void diff_tells_changes_alone(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    using E = Edit;
    const auto edit_all = [](int root, const std::vector<Edit> &edits) {
        for (const Edit &edit : edits)
            require(edit.apply(root), "the layer refuses " + edit.text() + ": " + strerror(errno));
    };
    bench.layer("base", {}, [&](int root) {
        edit_all(root, {{E::kDirectory, "/etc", "", 1},
                        {E::kDirectory, "/etc/deep", "", 2},
                        {E::kFile, "/etc/deep/file", "", 3},
                        {E::kFile, "/etc/conf", "", 4},
                        {E::kDirectory, "/old", "", 5},
                        {E::kFile, "/old/o", "", 6},
                        {E::kFile, "/some", "", 7}});
    });
    constexpr int kMod = GANTRY_CHANGE_MODIFIED, kAdd = GANTRY_CHANGE_ADDED, kDel = GANTRY_CHANGE_DELETED;
    int number = 0;
    const auto expect = [&](const char *what, const Kinds &wanted, const std::function<void(int)> &work) {
        const std::string id = "d" + std::to_string(++number);
        bench.make(id, {"base"});
        work(bench.view(id, {"base"}, false).get());
        Kinds got = ordered(best_changes(bench, id, {"base"}), "the diff");
        got.erase("/"); // its time changes with its names
        require(got == wanted, std::string(what) + " is told as another change (-: wanted, +: told):\n" +
                                   difference_of(wanted, got));
        bench.drop(id);
    };
    expect("nothing", {}, [](int) {});
    expect("reading", {}, [](int root) { read_file_at(root, "etc/conf"); });
    expect("opening for writing", {},
           [](int root) { UniqueFd(openat(root, "etc/conf", O_WRONLY | O_CLOEXEC)); });
    expect("a mode changed and taken back", {}, [](int root) {
        require(fchmodat(root, "etc/conf", 0600, 0) == 0, strerror(errno));
        require(fchmodat(root, "etc/conf", 0644, 0) == 0, strerror(errno));
    });
    expect("appending to a file", {{"/some", kMod}}, [&](int root) {
        edit_all(root, {{E::kAppend, "/some", "", 9}});
    });
    expect("removing a directory", {{"/old", kDel}}, [&](int root) {
        edit_all(root, {{E::kRemove, "/old", "", 9}});
    });
    expect("a file in place of a directory", {{"/old", kMod}}, [&](int root) {
        edit_all(root, {{E::kRemove, "/old", "", 9}, {E::kFile, "/old", "", 10}});
    });
    expect("a directory removed and made anew", {{"/old", kMod}, {"/old/o", kDel}, {"/old/n", kAdd}},
           [&](int root) {
               edit_all(root, {{E::kReplaceDirectory, "/old", "", 9}, {E::kFile, "/old/n", "", 10}});
           });
    expect("a second name of a file", {{"/some", kMod}, {"/again", kAdd}}, [&](int root) {
        edit_all(root, {{E::kHardLink, "/again", "/some", 9}});
    });
    expect("what came and went", {}, [](int root) {
        mkdirat(root, "t", 0755);
        unlinkat(root, "t", AT_REMOVEDIR);
    });
    expect("a change below", {{"/etc", kMod}, {"/etc/deep", kMod}, {"/etc/deep/file", kMod}}, [&](int root) {
        edit_all(root, {{E::kFile, "/etc/deep/file", "", 77}, {E::kTouch, "/etc/deep", "", 8}});
    });
}

// A file rewritten within its size and given back its time: no attribute tells, the copy does.
void diff_sees_content(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    if (!bench.has_changes()) throw Skipped("the driver has no " GANTRY_STORAGE_DIFF_1);
    const auto stamp = [](int root) {
        const timespec times[2] = {{1'500'000'000, 0}, {1'500'000'000, 0}};
        for (const char *name : {"f", "g", "."})
            utimensat(root, name, times, 0);
    };
    bench.layer("base", {}, [&](int root) {
        write_file(root, "f", "aaaa");
        write_file(root, "g", "same");
        stamp(root);
    });
    bench.make("top", {"base"});
    {
        const UniqueFd tree = bench.view("top", {"base"}, false);
        write_file(tree.get(), "f", "bbbb");
        write_file(tree.get(), "g", "same");
        stamp(tree.get());
    }
    const std::string wrong = difference_of({{"/f", GANTRY_CHANGE_MODIFIED}},
                                            ordered(bench.changes_of("top", {"base"}), "changes"));
    require(wrong.empty(), "changes compares attributes alone (-: wanted, +: told):\n" + wrong);
}

void whiteouts(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    const auto tar = [](const std::vector<std::string> &names) {
        std::string out;
        TarWriter writer([&](const void *p, size_t n) { out.append(static_cast<const char *>(p), n); });
        for (const std::string &name : names) {
            TarEntry entry;
            const bool folder = name.ends_with("/");
            entry.name = folder ? name.substr(0, name.size() - 1) : name;
            entry.mode = folder ? S_IFDIR | 0755 : S_IFREG | 0644;
            writer.begin(entry);
        }
        writer.finish();
        return out;
    };
    apply(bench, "base", {}, tar({"d/", "d/x", "d/y", "d/.wh.gone", ".wh.other", "e/", "e/x", "f"}));
    apply(bench, "two", {"base"}, tar({"d/", "d/.wh.x", "e/", "e/.wh..wh..opq", "e/new", ".wh.f"}));
    const auto names = [&](const std::string &id, const LayerIds &parents) {
        std::string out;
        for (const auto &[path, line] : describe(proc(bench.view(id, parents, true))))
            out += path + " ";
        return out;
    };
    const auto expect = [&](const std::string &what, const std::string &wanted, const std::string &got) {
        require(got == wanted, what + " shows\n  " + got + "\ninstead of\n  " + wanted);
    };
    expect("a layer with whiteouts of nothing", "/ /d /d/x /d/y /e /e/x /f ", names("base", {}));
    expect("a layer with whiteouts and an opaque directory", "/ /d /d/y /e /e/new ", names("two", {"base"}));
    bench.make("top", {"two", "base"});
    {
        const UniqueFd tree = bench.view("top", {"two", "base"}, false);
        write_file(tree.get(), "f", "again");
        write_file(tree.get(), "d/x", "again");
    }
    expect("a layer that makes deleted names again", "/ /d /d/x /d/y /e /e/new /f ",
           names("top", {"two", "base"}));
}

/// One of everything, and what copying must not lose: also of what is changed in a layer above.
void attributes(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    using E = Edit;
    const std::vector<Edit> base{{E::kDirectory, "/d", "", 1},    {E::kFile, "/d/f", "", 5000},
                                 {E::kOwner, "/d/f", "", 65534},  {E::kMode, "/d/f", "", 04711},
                                 {E::kUserXattr, "/d/f", "", 3},  {E::kFile, "/cap", "", 20},
                                 {E::kCapability, "/cap", "", 4}, {E::kSymlink, "/link", "../\xc3\xa9", 5},
                                 {E::kDevice, "/null", "", 6},    {E::kFifo, "/pipe", "", 7},
                                 {E::kFile, "/one", "", 8},       {E::kHardLink, "/d/two", "/one", 9},
                                 {E::kSparse, "/hole", "", 10},   {E::kUserXattr, "/d", "", 11},
                                 {E::kTouch, "/link", "", 12}};
    const std::vector<Edit> more{{E::kTouch, "/d/f", "", 99},  {E::kUserXattr, "/cap", "", 98},
                                 {E::kOwner, "/link", "", 97}, {E::kMode, "/null", "", 0600},
                                 {E::kAppend, "/hole", "", 3}, {E::kRename, "/d/pipe", "/pipe", 95}};
    make_directories(dir + "/plain", 0755);
    const UniqueFd plain = open_file(dir + "/plain", O_RDONLY | O_DIRECTORY);
    LayerIds chain;
    for (const std::vector<Edit> *edits : {&base, &more}) {
        const std::string id = "a" + std::to_string(chain.size());
        bench.layer(id, chain, [&](int root) {
            for (const Edit &edit : *edits) {
                require(edit.apply(plain.get()), "a plain directory refuses " + edit.text());
                require(edit.apply(root), "the layer refuses " + edit.text() + ": " + strerror(errno));
            }
        });
        const std::string wrong =
            difference(described(dir + "/plain"), described(proc(bench.view(id, chain, true))));
        require(wrong.empty(), "a layer loses attributes (-: wanted, +: shown):\n" + wrong);
        chain.insert(chain.begin(), id);
    }
}

void holes_stay_holes(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    bench.layer("base", {}, [](int root) {
        const UniqueFd hole(openat(root, "hole", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
        require(ftruncate(hole.get(), 40 << 20) == 0 && pwrite(hole.get(), "x", 1, 20'000'000) == 1,
                std::string("write a sparse file: ") + strerror(errno));
        write_file(root, "zeros", std::string(2'000'000, '\0'));
    });
    bench.make("top", {"base"});
    {
        const UniqueFd tree = bench.view("top", {"base"}, false);
        for (const char *name : {"hole", "zeros"}) // whatever a driver copies at a write is copied now
            require(fchmodat(tree.get(), name, 0600, 0) == 0, strerror(errno));
    }
    // The kernel's own copies (overlayfs) are in pieces of 1 MiB.
    struct stat hole {
    }, zeros{};
    const UniqueFd tree = bench.view("top", {"base"}, true);
    fstatat(tree.get(), "hole", &hole, 0);
    fstatat(tree.get(), "zeros", &zeros, 0);
    require(hole.st_size == 40 << 20 && hole.st_blocks * 512 < 4 << 20,
            "a sparse file of one byte takes " + std::to_string(hole.st_blocks * 512) + " bytes");
    require(zeros.st_blocks * 512 >= 2'000'000, "zeros that were written became a hole");
}

void deep_trees(const Subject &subject, const std::string &dir) {
    constexpr int kDepth = 1100; // 9,900 bytes of path
    StorageBench bench(subject, dir);
    bench.layer("deep", {}, [](int root) {
        UniqueFd at(fcntl(root, F_DUPFD_CLOEXEC, 0));
        for (int i = 0; i < kDepth; ++i) {
            require(mkdirat(at.get(), "level-xx", 0755) == 0, strerror(errno));
            at.reset(openat(at.get(), "level-xx", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        }
        write_file(at.get(), "bottom", "x");
        require(linkat(at.get(), "bottom", at.get(), "second", 0) == 0, strerror(errno));
    });
    Usage usage;
    const RecordedCall call;
    call.require_ok(bench.usage(call, "deep", usage), "usage of a deep tree");
    require(usage.inodes == kDepth + 1u,
            "usage: " + std::to_string(usage.inodes) + " inodes instead of " + std::to_string(kDepth + 1));
    bench.make("top", {"deep"});
    UniqueFd at = bench.view("top", {"deep"}, true);
    for (int i = 0; i < kDepth; ++i) {
        at.reset(openat(at.get(), "level-xx", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        require(bool(at), "a deep tree ends at level " + std::to_string(i));
    }
    struct stat facts {};
    require(fstatat(at.get(), "second", &facts, 0) == 0 && facts.st_nlink == 2,
            "a hard link deep in a tree is lost");
}

} // namespace

std::vector<Case> storage_tree_cases() {
    constexpr int kKind = GANTRY_KIND_STORAGE;
    return {
        {"storage.fidelity", "a layer shows what a plain directory shows", kKind, true,
         shows_what_was_written, 120},
        {"storage.attributes", "modes, owners, times, links, devices and attributes survive", kKind, true,
         attributes},
        {"storage.holes", "sparse files stay sparse", kKind, true, holes_stay_holes},
        {"storage.deep", "trees deeper than any path are measured and shown", kKind, true, deep_trees},
        {"storage.whiteouts", "an image's whiteouts and opaque directories hide what they say", kKind, true,
         whiteouts},
        {"storage.diff", "changes are those of a walk of both trees", kKind, true, diff_agrees_with_a_walk,
         120},
        {"storage.diff-kinds", "a diff tells every change, and changes alone", kKind, true,
         diff_tells_changes_alone},
        {"storage.diff-content", "a diff sees content behind equal attributes", kKind, true,
         diff_sees_content},
        {"storage.rebuild", "diff and apply rebuild the tree exactly", kKind, true, diff_and_apply_rebuild,
         120},
    };
}

} // namespace gantry::kit
