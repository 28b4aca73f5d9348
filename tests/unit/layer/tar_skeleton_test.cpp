// Tars as several tools write them come back byte for byte from their skeleton and the tree; what cannot come
// back has no skeleton.
#include "core/layer/tar_skeleton.h"

#include "core/base/cancel.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/content/content.h"

#include <cstdlib>
#include <fcntl.h>
#include <gtest/gtest.h>

namespace gantry {
namespace {

struct TarSkeletonTest : testing::Test {
    std::string base = testing::TempDir() + "gantry-skeleton-" + random_hex(4);
    TarSkeletons store{base + "/store"};
    CallScope call;

    TarSkeletonTest() {
        make_directories(base + "/in", 0755);
        make_directories(base + "/out", 0755);
    }
    ~TarSkeletonTest() override { remove_tree(base); }

    void shell(const std::string &script) const {
        ASSERT_EQ(std::system(("cd " + base + " && { " + script + "; } > /dev/null 2>&1").c_str()), 0)
            << script;
    }
    /// Skeleton of the file, fed in parts of `step` bytes. False when there is none.
    bool note(const std::string &tar, size_t step) {
        TarSkeleton skeleton;
        for (size_t at = 0; at < tar.size(); at += step)
            skeleton.feed(tar.data() + at, std::min(step, tar.size() - at));
        store.put(sha256_of(tar), skeleton, false);
        return store.tar_size(sha256_of(tar)).has_value();
    }
    std::string again(const std::string &diff_id) {
        const UniqueFd root = open_file(base + "/out", O_PATH | O_DIRECTORY);
        std::string out;
        store.write_tar(
            diff_id, root.get(),
            [&](const void *bytes, size_t size) { out.append(static_cast<const char *>(bytes), size); },
            call);
        return out;
    }
    void round_trip(const std::string &make, size_t step = 100'000) {
        shell("rm -rf in out; mkdir in out; " + make + "; tar -xpf t.tar -C out");
        const std::string tar = read_file(base + "/t.tar", 256 << 20);
        ASSERT_TRUE(note(tar, step)) << make;
        EXPECT_EQ(store.tar_size(sha256_of(tar)), tar.size());
        EXPECT_EQ(sha256_of(again(sha256_of(tar))), sha256_of(tar)) << make;
        EXPECT_LT(read_file(base + "/store/sha256-" + sha256_of(tar).substr(7), 256 << 20).size(),
                  tar.size() / 5 + 4096);
    }
};

const char kTree[] =
    "cd in; long=$(printf 'd%.0s' $(seq 90)); mkdir -p a/b $long/$long/$long; echo one > a/one; "
    "head -c 70000 /dev/urandom > a/b/two; : > a/empty; ln a/one hard; ln -s a/one soft; "
    "head -c 512 /dev/zero > block; echo x > $long/$long/$long/x; echo ü > 'ümläut \"q\"'; "
    "mkfifo pipe; chmod 4755 a/one; cd ..";

TEST_F(TarSkeletonTest, EveryDialectOfTar) {
    for (const char *format : {"gnu", "posix", "oldgnu"})
        round_trip(std::string(kTree) + "; tar --format=" + format + " -C in -cf t.tar .");
    round_trip(std::string("cd in; mkdir -p d; echo a > d/a; cd ..; tar --format=v7 -C in -cf t.tar d"));
    round_trip("cd in; echo a > a; cd ..; tar --format=ustar -b 1 -C in -cf t.tar a");
}

TEST_F(TarSkeletonTest, PartsOfAnySize) {
    for (const size_t step : {1, 7, 511, 512, 513})
        round_trip(std::string(kTree) + "; tar -C in -cf t.tar .", step);
}

TEST_F(TarSkeletonTest, SparseFilesAreKeptWhole) {
    for (const char *format : {"gnu", "posix"})
        round_trip(std::string(
                       "truncate -s 10M in/s; echo end >> in/s; echo a > in/a; head -c 300000 /dev/urandom > "
                       "in/z; tar --sparse --format=") +
                   format + " -C in -cf t.tar .");
}

TEST_F(TarSkeletonTest, WhatComesAfterTheEndIsKept) {
    round_trip(
        "echo a > in/a; head -c 100000 /dev/urandom > in/z; tar -C in -cf t.tar .; echo trailing >> t.tar");
}

TEST_F(TarSkeletonTest, TheLastFilesPaddingMayBeMissing) {
    shell("head -c 300000 /dev/urandom | tee in/z > out/z; tar --format=ustar -C in -cf t.tar z; truncate -s "
          "300512 t.tar");
    const std::string tar = read_file(base + "/t.tar", 1 << 20);
    ASSERT_TRUE(note(tar, 4096));
    EXPECT_EQ(sha256_of(again(sha256_of(tar))), sha256_of(tar));
    EXPECT_FALSE(note(tar.substr(0, 300'511), 4096)) << "the file itself is cut";
}

TEST_F(TarSkeletonTest, ANameThatComesTwiceHasNone) {
    shell("echo a > in/a; tar -C in -cf t.tar a; echo b > in/a; tar -C in -rf t.tar ./a");
    EXPECT_FALSE(note(read_file(base + "/t.tar"), 4096));
}

TEST_F(TarSkeletonTest, WhatIsNoTarHasNone) {
    EXPECT_FALSE(note(std::string(2048, 'x'), 100));
    EXPECT_FALSE(note("short", 100));
}

TEST_F(TarSkeletonTest, AChangedTreeIsTold) {
    round_trip("echo one > in/a; head -c 100000 /dev/urandom > in/z; tar -C in -cf t.tar .");
    const std::string id = sha256_of(read_file(base + "/t.tar"));
    shell("echo longer than it was > out/a");
    EXPECT_THROW(again(id), Error);
    shell("rm out/a; ln -s z out/a");
    EXPECT_THROW(again(id), Error);
    shell("rm out/a");
    EXPECT_THROW(again(id), Error);
    EXPECT_THROW(again("sha256:" + std::string(64, '0')), Error);
}

TEST_F(TarSkeletonTest, ADamagedRecordIsTold) {
    round_trip("echo one > in/a; head -c 100000 /dev/urandom > in/z; tar -C in -cf t.tar .");
    const std::string id = sha256_of(read_file(base + "/t.tar")),
                      path = base + "/store/sha256-" + id.substr(7);
    const std::string bytes = read_file(path);
    for (size_t at = 30; at < bytes.size(); at += 5) {
        std::string wrong = bytes;
        wrong[at] = static_cast<char>(wrong[at] ^ 0x11);
        write_file_atomically(path, wrong, 0600, false);
        try {
            EXPECT_NE(sha256_of(again(id)), id);
        } catch (const Error &) {
        }
    }
    write_file_atomically(path, bytes.substr(0, bytes.size() / 2), 0600, false);
    EXPECT_THROW(again(id), Error);
}

} // namespace
} // namespace gantry
