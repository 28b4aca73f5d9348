// <gantry/storage.h>, slot by slot.
#include "storage_bench.h"

#include "core/base/files.h"

#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry::kit {

namespace {

void capabilities(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    const gantry_storage_caps caps = bench.caps();
    require(caps.whiteout >= GANTRY_WHITEOUT_NONE && caps.whiteout <= GANTRY_WHITEOUT_AUFS,
            "caps: there is no whiteout format " + std::to_string(caps.whiteout));
    require(caps.max_parents == 0 || caps.max_parents >= 128,
            "caps: " + std::to_string(caps.max_parents) + " parents are fewer than the 128 that images use");
    // A caller of an older minor has a shorter struct: nothing beyond it may be touched.
    struct {
        gantry_storage_caps caps;
        unsigned char guard[64];
    } narrow;
    memset(&narrow, 0xa5, sizeof narrow);
    narrow.caps.struct_size = offsetof(gantry_storage_caps, max_parents);
    const RecordedCall call;
    call.require_ok(bench.table<gantry_storage_v1>().caps(bench.driver(), call.raw(), &narrow.caps), "caps");
    const auto *bytes = reinterpret_cast<const unsigned char *>(&narrow);
    for (size_t i = offsetof(gantry_storage_caps, max_parents); i < sizeof narrow; ++i)
        require(bytes[i] == 0xa5, "caps: wrote beyond the caller's struct_size");
}

void ids(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    require(bench.list().empty(), "list: an empty root has layers");
    bench.make("a1");
    require(bench.list() == std::set<std::string>{"a1"}, "list: does not name the layer that was made");
    {
        const RecordedCall call;
        call.require_class(bench.create(call, "a1"), {GANTRY_ALREADY_EXISTS}, "create of an active id again");
    }
    bench.seal("a1");
    {
        const RecordedCall call;
        call.require_class(bench.create(call, "a1"), {GANTRY_ALREADY_EXISTS},
                           "create of a committed id again");
    }
    bench.drop("a1");
    bench.drop("a1"); // idempotent
    require(bench.list().empty(), "list: names a removed layer");
    for (const std::string unknown : {"a1", "never"}) {
        std::vector<Mount> mounts;
        const RecordedCall shown, used, sealed;
        Usage usage;
        shown.require_class(bench.mounts(shown, unknown, {}, true, mounts), {GANTRY_NOT_FOUND},
                            "mounts of an unknown id");
        used.require_class(bench.usage(used, unknown, usage), {GANTRY_NOT_FOUND}, "usage of an unknown id");
        sealed.require_class(bench.commit(sealed, unknown), {GANTRY_NOT_FOUND}, "commit of an unknown id");
    }
}

void hostile_ids(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    make_directories(dir + "/root/../outside", 0755);
    write_file_atomically(dir + "/outside/file", "x", 0644, false);
    const std::string huge(5000, 'a');
    for (const std::string &id :
         {std::string(), std::string(".."), std::string("."), std::string("../outside"), std::string("a/b"),
          std::string("A"), std::string("a b"), std::string(".x"), std::string(33, 'a'), huge}) {
        const std::string shown = "the id \"" + id.substr(0, 40) + "\"";
        const RecordedCall made, gone;
        made.require_class(bench.create(made, id), {GANTRY_INVALID_ARGUMENT}, "create with " + shown);
        gone.require_class(bench.remove(gone, id), {GANTRY_INVALID_ARGUMENT, GANTRY_OK},
                           "remove with " + shown);
    }
    const RecordedCall call;
    call.require_class(bench.create(call, "child", {"../outside"}),
                       {GANTRY_INVALID_ARGUMENT, GANTRY_NOT_FOUND}, "create with the parent \"../outside\"");
    require(path_exists(dir + "/outside/file"), "a file beside the driver's root was removed");
    require(bench.list().empty(), "list: a refused id was made");
}

void mounts_are_returned_not_made(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    bench.layer("base", {}, [](int root) { write_file(root, "file", "base"); });
    const Footprint before = Footprint::take();
    bench.make("top", {"base"});
    std::vector<Mount> first, second;
    const RecordedCall one, two;
    one.require_ok(bench.mounts(one, "top", {"base"}, false, first), "mounts");
    two.require_ok(bench.mounts(two, "top", {"base"}, false, second), "mounts");
    require(!first.empty(), "mounts: none was returned");
    auto text = [](const std::vector<Mount> &mounts) {
        std::string out;
        for (const Mount &mount : mounts) {
            out +=
                mount.type + " " + mount.source + " " + mount.target + " " + (mount.read_only ? "ro" : "rw");
            for (const std::string &option : mount.options)
                out += " " + option;
            out += "\n";
        }
        return out;
    };
    require(text(first) == text(second),
            "mounts: two equal questions have two answers:\n" + text(first) + text(second));
    for (const Mount &mount : first) {
        require(mount.target.empty() ||
                    (mount.target[0] != '/' && mount.target.find("..") == std::string::npos),
                "mounts: the target \"" + mount.target + "\" does not lie below the layer's root");
        for (const std::string &option : mount.options)
            require(option != "ro" && option != "rw",
                    "mounts: read_only says what the option \"" + option + "\" repeats");
    }
    const std::string changed = Footprint::take().changes_since(before);
    require(changed.empty(), "create and mounts: " + changed);
}

void committed_is_read_only(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    bench.layer("base", {}, [](int root) { write_file(root, "file", "base"); });
    std::vector<Mount> mounts;
    const RecordedCall call;
    call.require_class(bench.mounts(call, "base", {}, false, mounts), {GANTRY_FAILED_PRECONDITION},
                       "mounts of a committed layer for writing");
    bench.seal("base"); // idempotent
    const RecordedCall durable;
    durable.require_ok(bench.commit(durable, "base", {}, true), "commit again, durably");
    const UniqueFd tree = bench.view("base", {}, true);
    require(read_file_at(tree.get(), "file") == "base", "a committed layer lost its file");
    require(openat(tree.get(), "file", O_WRONLY | O_CLOEXEC) < 0 && errno == EROFS,
            "a committed layer can be written through its read-only mounts");
    bench.make("top", {"base"});
    const UniqueFd frozen = bench.view("top", {"base"}, true);
    require(openat(frozen.get(), "new", O_WRONLY | O_CREAT | O_CLOEXEC, 0644) < 0,
            "an active layer can be written through its read-only mounts");
}

void writes_stay_in_their_layer(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    bench.layer("base", {}, [](int root) {
        write_file(root, "kept", "base");
        write_file(root, "changed", "base");
        write_file(root, "removed", "base");
    });
    for (const char *id : {"one", "two"})
        bench.make(id, {"base"});
    {
        const UniqueFd one = bench.view("one", {"base"}, false);
        write_file(one.get(), "changed", "one");
        write_file(one.get(), "new", "one");
        unlinkat(one.get(), "removed", 0);
    }
    auto expect = [&](const char *id, const LayerIds &parents, const char *file, const char *wanted) {
        const std::string got = read_file_at(bench.view(id, parents, true).get(), file);
        require(got == wanted, std::string("layer ") + id + " shows " + file + " as \"" + got +
                                   "\" instead of \"" + wanted + "\"");
    };
    expect("one", {"base"}, "kept", "base");
    expect("one", {"base"}, "changed", "one");
    expect("one", {"base"}, "new", "one");
    expect("one", {"base"}, "removed", "(absent)");
    expect("two", {"base"}, "changed", "base");
    expect("two", {"base"}, "new", "(absent)");
    expect("two", {"base"}, "removed", "base");
    expect("base", {}, "changed", "base");
    bench.drop("two");
    expect("one", {"base"}, "changed", "one");
    bench.reopen();
    expect("one", {"base"}, "changed", "one");
    expect("base", {}, "removed", "base");
}

void commit_moves_no_data(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    bench.layer("base", {}, [](int root) { write_file(root, "below", "x"); });
    bench.make("top", {"base"});
    struct stat before {
    }, after{};
    {
        const UniqueFd tree = bench.view("top", {"base"}, false);
        write_file(tree.get(), "file", std::string(100'000, 'x'));
        fstatat(tree.get(), "file", &before, 0);
    }
    bench.seal("top", {"base"});
    fstatat(bench.view("top", {"base"}, true).get(), "file", &after, 0);
    require(before.st_ino == after.st_ino && before.st_ctim.tv_sec == after.st_ctim.tv_sec &&
                before.st_ctim.tv_nsec == after.st_ctim.tv_nsec,
            "commit rewrote the files of the layer");
}

void usage_counts_one_layer(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    bench.layer("base", {}, [](int root) {
        write_file(root, "big", std::string(3'000'000, 'x'));
        require(linkat(root, "big", root, "again", 0) == 0, strerror(errno));
    });
    Usage base, again, top;
    const RecordedCall first, second, third;
    first.require_ok(bench.usage(first, "base", base), "usage");
    require(base.bytes >= 3'000'000,
            "usage: " + std::to_string(base.bytes) + " bytes for a file of 3,000,000");
    require(base.bytes < 5'000'000,
            "usage: " + std::to_string(base.bytes) + " bytes: a hard link is counted twice");
    bench.make("top", {"base"});
    write_file(bench.view("top", {"base"}, false).get(), "more", std::string(1'000'000, 'y'));
    second.require_ok(bench.usage(second, "top", top), "usage");
    require(top.bytes < 2'500'000,
            "usage: " + std::to_string(top.bytes) + " bytes: the parent is counted as well");
    require(top.bytes >= 900'000, "usage: " + std::to_string(top.bytes) + " bytes for a file of 1,000,000");
    bench.reopen();
    third.require_ok(bench.usage(third, "base", again), "usage");
    require(again.bytes == base.bytes && again.inodes == base.inodes, "usage of a committed layer changed");
}

void limits(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    constexpr uint64_t kLimit = 8u << 20;
    const RecordedCall call;
    const gantry_status status = bench.create(call, "small", {}, kLimit);
    if (!bench.caps().quota) {
        call.require_class(status, {GANTRY_UNSUPPORTED}, "create with a size limit and no quota");
        require(bench.list().empty(), "create: what was refused is there");
        return;
    }
    call.require_ok(status, "create with a size limit");
    const UniqueFd tree = bench.view("small", {}, false);
    const UniqueFd file(openat(tree.get(), "big", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    const std::string block(1 << 20, 'x');
    uint64_t written = 0;
    int error = 0;
    while (written < 4 * kLimit && error == 0) {
        const ssize_t n = write(file.get(), block.data(), block.size());
        if (n < 0)
            error = errno;
        else
            written += static_cast<uint64_t>(n);
        if (error == 0 && fsync(file.get()) != 0) error = errno;
    }
    require(error == ENOSPC || error == EDQUOT,
            "a layer of 8 MiB took " + std::to_string(written >> 20) + " MiB");
}

void sinks_are_obeyed(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    bench.make("a");
    bench.make("b");
    gantry_string_sink sink{};
    sink.struct_size = sizeof sink;
    int calls = 0;
    sink.ctx = &calls;
    sink.add = [](void *ctx, const char *) -> gantry_status {
        ++*static_cast<int *>(ctx);
        return GANTRY_NO_SPACE;
    };
    const RecordedCall call;
    const gantry_status status = bench.table<gantry_storage_v1>().list(bench.driver(), call.raw(), &sink);
    require(status == GANTRY_NO_SPACE, std::string("list: the sink said \"no space\", the call returned \"") +
                                           class_name(status) + "\"");
    require(calls == 1, "list: went on after the sink said no");
}

void cancellation(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    bench.layer("base", {}, [](int root) {
        for (int i = 0; i < 300; ++i) {
            const std::string name = "d" + std::to_string(i);
            mkdirat(root, name.c_str(), 0755);
            write_file(root, name + "/f", "x");
        }
    });
    bench.make("top", {"base"});
    Usage usage;
    RecordedCall cancelled, late;
    cancelled.cancel_at_once();
    cancelled.require_class(bench.usage(cancelled, "base", usage), {GANTRY_CANCELLED, GANTRY_OK},
                            "usage, cancelled");
    late.deadline_passed();
    late.require_class(bench.usage(late, "base", usage), {GANTRY_DEADLINE, GANTRY_OK},
                       "usage, after its deadline");
    // An active layer must be measured by looking, so there is something to give up.
    {
        const UniqueFd tree = bench.view("top", {"base"}, false);
        for (int i = 0; i < 300; ++i)
            write_file(tree.get(), "own" + std::to_string(i), "x");
    }
    RecordedCall walking, made;
    walking.cancel_at_once();
    walking.require_class(bench.usage(walking, "top", usage), {GANTRY_CANCELLED},
                          "usage of an active layer, cancelled");
    made.cancel_at_once();
    const gantry_status status = bench.create(made, "new", {"base"});
    made.require_class(status, {GANTRY_CANCELLED, GANTRY_OK}, "create, cancelled");
    require((status == GANTRY_OK) == bench.list().contains("new"), "create, cancelled: left half a layer");
}

void concurrency(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    bench.layer("base", {}, [](int root) { write_file(root, "file", "base"); });
    in_parallel(8, [&](int thread) {
        for (int round = 0; round < 12; ++round) {
            const std::string id = "t" + std::to_string(thread) + "x" + std::to_string(round);
            bench.make(id, {"base"});
            {
                const UniqueFd tree = bench.view(id, {"base"}, false);
                write_file(tree.get(), "file", id);
            }
            Usage usage;
            const RecordedCall call;
            call.require_ok(bench.usage(call, id, usage), "usage in parallel");
            bench.list();
            if (round % 2) bench.seal(id, {"base"});
            const std::string got = read_file_at(bench.view(id, {"base"}, true).get(), "file");
            require(got == id, "layer " + id + " shows the file of layer " + got);
            if (round % 3 == 0) bench.drop(id);
        }
    });
    require(bench.list().size() == 1 + 8 * 8,
            "list: " + std::to_string(bench.list().size()) + " layers instead of 65");
}

void many_layers(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    LayerIds chain;
    for (int i = 0; i < 128; ++i) {
        const std::string id = "n" + std::to_string(i);
        bench.layer(id, chain, [&](int root) { write_file(root, "f" + std::to_string(i), "x"); });
        chain.insert(chain.begin(), id);
    }
    bench.make("top", chain);
    const UniqueFd tree = bench.view("top", chain, false);
    for (int i = 0; i < 128; ++i)
        require(read_file_at(tree.get(), "f" + std::to_string(i)) == "x",
                "layer " + std::to_string(i) + " of 128 does not show");
}

void removal_is_complete(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    bench.make("warm"); // a first layer may make what stays for the root's life
    bench.drop("warm");
    const std::set<std::string> before = bench.files();
    bench.layer("base", {}, [](int root) {
        // As a container can nest them: longer than any path the kernel takes.
        UniqueFd at(fcntl(root, F_DUPFD_CLOEXEC, 0));
        const std::string name(200, 'd');
        for (int i = 0; i < 200; ++i) {
            mkdirat(at.get(), name.c_str(), 0755);
            at.reset(openat(at.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        }
        write_file(at.get(), "bottom", "x");
    });
    bench.make("top", {"base"});
    bench.drop("top");
    bench.drop("base");
    bench.reopen(); // deferred work is done by now
    for (const std::string &path : bench.files())
        require(before.contains(path), "remove left " + path);
}

void destroy_keeps_everything(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    bench.layer("base", {}, [](int root) { write_file(root, "file", "base"); });
    bench.make("top", {"base"});
    write_file(bench.view("top", {"base"}, false).get(), "mine", "top");
    for (int i = 0; i < 3; ++i)
        bench.reopen();
    require(bench.list() == std::set<std::string>{"base", "top"}, "list: not what it was before destroy");
    require(read_file_at(bench.view("top", {"base"}, false).get(), "mine") == "top",
            "an active layer lost its file");
}

void calls_leave_nothing(const Subject &subject, const std::string &dir) {
    StorageBench bench(subject, dir);
    auto round = [&](const std::string &id) {
        bench.make(id);
        write_file(bench.view(id, {}, false).get(), "file", "x");
        Usage usage;
        const RecordedCall call, refused;
        call.require_ok(bench.usage(call, id, usage), "usage");
        bench.create(refused, id);
        bench.list();
        if (bench.has_changes()) bench.changes_of(id, {});
        bench.seal(id);
        bench.drop(id);
    };
    round("first"); // what stays for the instance's life
    const Footprint before = Footprint::take();
    for (int i = 0; i < 10; ++i)
        round("r" + std::to_string(i));
    const std::string left = Footprint::take().changes_since(before);
    require(left.empty(), left);
}

} // namespace

std::vector<Case> storage_cases() {
    constexpr int kKind = GANTRY_KIND_STORAGE;
    return {
        {"storage.caps", "capabilities are sane and keep to the caller's struct", kKind, true, capabilities},
        {"storage.ids", "an id is made once, listed while it is there, and removed twice", kKind, true, ids},
        {"storage.hostile-ids", "an id is no path", kKind, true, hostile_ids},
        {"storage.mounts", "mounts are returned, the same each time, and never made", kKind, true,
         mounts_are_returned_not_made},
        {"storage.read-only", "a committed layer is read-only for ever", kKind, true, committed_is_read_only},
        {"storage.layers", "what is written stays in its layer, whatever becomes of others", kKind, true,
         writes_stay_in_their_layer},
        {"storage.commit", "commit moves no data", kKind, true, commit_moves_no_data},
        {"storage.usage", "usage excludes parents and is fixed at commit", kKind, true,
         usage_counts_one_layer},
        {"storage.quota", "a size limit holds, or is refused", kKind, true, limits},
        {"storage.sinks", "a sink that says no ends the call with its word", kKind, true, sinks_are_obeyed},
        {"storage.cancel", "a cancelled call ends, with nothing half-made", kKind, true, cancellation},
        {"storage.threads", "eight threads on different ids do not disturb each other", kKind, true,
         concurrency},
        {"storage.128-layers", "an image of 128 layers works", kKind, true, many_layers, 180},
        {"storage.remove", "remove leaves nothing, however deep the tree", kKind, true, removal_is_complete},
        {"storage.destroy", "destroy leaves everything on disk", kKind, true, destroy_keeps_everything},
        {"storage.leaks", "calls leave no descriptor, mount or process", kKind, true, calls_leave_nothing},
    };
}

} // namespace gantry::kit
