// Tars written here are read by GNU tar, and tars of others are read here.
#include "core/layer/extract.h"
#include "core/layer/tar_reader.h"
#include "core/layer/tree_tar.h"
#include "tests/integration/layer/trees.h"

#include <gtest/gtest.h>

namespace gantry {
namespace {

using namespace test;

ByteSink into(std::string &out) {
    return [&out](const void *bytes, size_t size) { out.append(static_cast<const char *>(bytes), size); };
}

std::string tree_as_tar(const std::string &path, std::vector<std::string> *notices = nullptr) {
    std::string out;
    TreeTarOptions options;
    if (notices) options.notice = [notices](const std::string &note) { notices->push_back(note); };
    write_tree_tar(open_file(path, O_RDONLY | O_DIRECTORY).get(), into(out), options);
    return out;
}

void extract(const std::string &tar, const std::string &to, ExtractRules rules = {}) {
    rules.set_owner = ::geteuid() == 0;
    extract_tar(source_of(tar), open_file(to, O_PATH | O_DIRECTORY).get(), rules);
}

template <typename F> ErrorClass class_of(F work) {
    try {
        work();
    } catch (const Error &error) {
        return error.error_class();
    }
    return ErrorClass{};
}

const char kTree[] =
    "mkdir -p a/b; echo one > a/one; ln a/one a/b/hard; ln -s ../one a/b/soft; mkfifo pipe; "
    "n=$(printf 'l%.0s' $(seq 120)); mkdir $n; echo long > $n/$n; ln -s $n/$n longlink; "
    "echo ä > ü; printf x > \"$(printf 'b\\377d')\"; touch -d '2001-02-03 04:05:06.789' a/one; "
    "touch -d '1969-12-31 23:59:58.5 UTC' old; truncate -s 300000 hole; echo end >> hole; "
    "chmod 4751 a/one; chmod 0700 a/b";

TEST(Tar, ATreeComesBackExactly) {
    TempDir from, to;
    shell_in(from.path, kTree);
    const std::string tar = tree_as_tar(from.path);
    EXPECT_EQ(tar.size() % 512, 0u);
    EXPECT_EQ(tar, tree_as_tar(from.path)) << "the same tree, the same bytes";
    extract(tar, to.path);
    auto wanted = describe(from.path), got = describe(to.path);
    wanted.erase("/");
    got.erase("/");
    EXPECT_EQ(difference(wanted, got), "");
}

TEST(Tar, OthersReadItAndNobodyLearnsNames) {
    TempDir from, to;
    shell_in(from.path, kTree);
    shell_in(from.path, "rm -f old"); // GNU tar warns of times before 1970
    write_file_atomically(to.path + "/t.tar", tree_as_tar(from.path), 0600, false);
    shell_in(to.path, "mkdir x && tar -C x -xpf t.tar && tar --numeric-owner -tvf t.tar > list && rm t.tar");
    auto wanted = describe(from.path), got = describe(to.path + "/x");
    wanted.erase("/");
    got.erase("/");
    EXPECT_EQ(difference(wanted, got), "");
    const std::string list = read_file(to.path + "/list");
    EXPECT_NE(list.find("a/one"), std::string::npos);
}

TEST(Tar, ReadsGnuTarsOfEveryFormat) {
    for (const std::string format : {"gnu", "pax", "ustar", "v7"}) {
        TempDir from, to;
        shell_in(from.path,
                 "mkdir -p tree/a out; echo one > tree/a/one; ln tree/a/one tree/hard; ln -s a tree/soft");
        if (format == "gnu" || format == "pax")
            shell_in(from.path,
                     "cd tree; n=$(printf 'l%.0s' $(seq 120)); mkdir $n; echo long > $n/$n; ln -s $n/$n l");
        shell_in(from.path, "tar -C tree --format=" + format + " -cf t.tar .");
        extract(read_file(from.path + "/t.tar"), to.path);
        auto wanted = describe(from.path + "/tree", false), got = describe(to.path, false);
        wanted.erase("/");
        got.erase("/");
        EXPECT_EQ(difference(wanted, got), "") << format;
    }
}

TEST(Tar, RefusesWhatItCannotRead) {
    TempDir dir;
    EXPECT_EQ(class_of([&] { extract(std::string(2048, 'x'), dir.path); }), ErrorClass::kInvalidArgument);
    const std::string good = Tar().file("f", std::string(5000, 'y')).done();
    EXPECT_EQ(class_of([&] { extract(good.substr(0, 2000), dir.path); }), ErrorClass::kInvalidArgument);
    EXPECT_EQ(class_of([&] { extract(Tar().file("../out").done(), dir.path); }),
              ErrorClass::kInvalidArgument);
    EXPECT_EQ(class_of([&] { extract(Tar().pax("GNU.sparse.major", "1").file("s").done(), dir.path); }),
              ErrorClass::kUnsupported);
    EXPECT_EQ(class_of([&] { extract(Tar().hard_link("h", "none").done(), dir.path); }),
              ErrorClass::kInvalidArgument);
}

TEST(Tar, LinksOfTheArchiveAndTheTargetLeadNowhereElse) {
    TempDir outside, dir;
    EXPECT_NE(
        class_of([&] { extract(Tar().symlink("out", outside.path).file("out/evil").done(), dir.path); }),
        ErrorClass{})
        << "what the link means is not in the root yet";
    extract(Tar().dir(outside.path).symlink("out", outside.path).file("out/evil").done(), dir.path);
    EXPECT_TRUE(list_directory(outside.path).empty());
    EXPECT_TRUE(path_exists(dir.path + outside.path + "/evil")) << "below the root, as in a container";
}

TEST(Tar, KindsAreKeptWhenAskedFor) {
    TempDir dir;
    shell_in(dir.path, "mkdir d; touch f d/x");
    ExtractRules keep;
    keep.keep_kinds = true;
    EXPECT_EQ(class_of([&] { extract(Tar().file("d").done(), dir.path, keep); }),
              ErrorClass::kInvalidArgument);
    EXPECT_EQ(class_of([&] { extract(Tar().dir("f").done(), dir.path, keep); }),
              ErrorClass::kInvalidArgument);
    EXPECT_TRUE(path_exists(dir.path + "/d/x"));
    extract(Tar().dir("d").file("f", "new").done(), dir.path, keep);
    EXPECT_TRUE(path_exists(dir.path + "/d/x"));
    EXPECT_EQ(read_file(dir.path + "/f"), "new");
    extract(Tar().file("d", "now a file").done(), dir.path);
    EXPECT_EQ(read_file(dir.path + "/d"), "now a file");
}

TEST(Tar, ChangesBringTheDirectoriesAboveThem) {
    TempDir dir;
    shell_in(dir.path, "mkdir -p a/b; chmod 0711 a; chmod 0700 a/b; echo x > a/b/f; touch kept");
    std::string tar;
    const size_t count = write_changes_tar(open_file(dir.path, O_RDONLY | O_DIRECTORY).get(),
                                           {{GANTRY_CHANGE_DELETED, "/a/gone"},
                                            {GANTRY_CHANGE_MODIFIED, "/a/b/f"},
                                            {GANTRY_CHANGE_ADDED, "/vanished/since"}},
                                           into(tar), {});
    EXPECT_EQ(count, 2u);
    TarReader reader(source_of(tar));
    std::string names;
    for (TarEntry entry; reader.next(entry);) {
        char mode[16];
        std::snprintf(mode, sizeof mode, ":%o ", entry.mode & 07777);
        names += entry.name + mode;
    }
    EXPECT_EQ(names.substr(0, names.find("a/b/f")), "a/:711 a/b/:700 ");
    EXPECT_NE(names.find("a/.wh.gone:0 "), std::string::npos);
    EXPECT_EQ(names.find("kept"), std::string::npos);
    shell_in(dir.path, "touch a/.wh.f");
    EXPECT_EQ(class_of([&] {
                  std::string out;
                  write_changes_tar(open_file(dir.path, O_RDONLY | O_DIRECTORY).get(),
                                    {{GANTRY_CHANGE_ADDED, "/a/.wh.f"}}, into(out), {});
              }),
              ErrorClass::kInvalidArgument);
}

TEST(Tar, AFileThatShrinksKeepsItsAnnouncedSize) {
    TempDir dir;
    shell_in(dir.path, "head -c 1000 /dev/zero | tr '\\0' y > f");
    std::string out;
    TarWriter writer(into(out));
    TarEntry entry;
    entry.name = "f";
    entry.mode = S_IFREG | 0644;
    entry.size = 3000;
    writer.begin(entry);
    EXPECT_EQ(writer.data_from(open_file(dir.path + "/f", O_RDONLY).get(), "f"), 2000u);
    writer.finish();
    TarReader reader(source_of(out));
    ASSERT_TRUE(reader.next(entry));
    EXPECT_EQ(entry.size, 3000u);
    EXPECT_FALSE(reader.next(entry));
}

TEST(Tar, NumbersBeyondOctalSurvive) {
    std::string out;
    TarWriter writer(into(out));
    TarEntry entry;
    entry.name = "n";
    entry.mode = S_IFREG | 0600;
    entry.uid = 4000000000u;
    entry.gid = 3000000;
    entry.mtime = {-5, 250000000};
    writer.begin(entry);
    writer.finish();
    TarReader reader(source_of(out));
    TarEntry back;
    ASSERT_TRUE(reader.next(back));
    EXPECT_EQ(back.uid, entry.uid);
    EXPECT_EQ(back.gid, entry.gid);
    EXPECT_EQ(back.mtime.tv_sec, -5);
    EXPECT_EQ(back.mtime.tv_nsec, 250000000);
}

TEST(Tar, SocketsAreLeftOutWithANotice) {
    TempDir dir;
    shell_in(dir.path, "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'");
    std::vector<std::string> notices;
    const std::string tar = tree_as_tar(dir.path, &notices);
    TarReader reader(source_of(tar));
    TarEntry entry;
    if (::geteuid() == 0) {
        EXPECT_FALSE(reader.next(entry));
    }
    ASSERT_EQ(notices.size(), 1u);
    EXPECT_EQ(notices[0], "/s: sockets cannot be stored");
}

} // namespace
} // namespace gantry
