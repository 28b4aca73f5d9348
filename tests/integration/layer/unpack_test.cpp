// Fidelity against GNU tar, whiteouts in every format, and archives that mean harm.
#include "tests/integration/layer/trees.h"

#include <gtest/gtest.h>

namespace gantry {
namespace {

using namespace test;

// What real layers hold, and a little more.
void make_tree(const std::string &root) {
    shell_in(root, R"sh(
mkdir -p usr/bin var/empty a/very/deep/dir && echo hello > usr/bin/tool && chmod 4755 usr/bin/tool
echo owned > owned && chown 1000:1001 owned && mkdir setgid && chgrp 50 setgid && chmod 2775 setgid && echo in > setgid/in
mkdir sticky && chmod 1777 sticky && ln -s usr/bin bin && ln -s /absolute/../nowhere dangling && ln -s ../../../up up
ln usr/bin/tool usr/bin/alias && ln bin/tool a/hard 2>/dev/null; ln -P dangling dangling2
mkfifo fifo && mknod dev_null c 1 3 && mknod dev_loop b 7 200 && : > empty && chmod 000 empty
truncate -s 5M sparse && echo middle | dd of=sparse bs=1 seek=2000000 conv=notrunc status=none && truncate -s 1M hole
touch "$(printf 'nl\nname')" 'ünïcödé' "$(printf 'latin\351')" ' space '
n=$(printf '%0200d' 7); mkdir $n && echo long > $n/$n && ln -s $n/$n longlink && ln $n/$n hardlong
head -c 700000 /dev/urandom > random && touch -d '2001-02-03 04:05:06.789012345' random usr/bin && touch -d 1960-01-01 var/empty
)sh");
    if (::setxattr((root + "/usr/bin/tool").c_str(), "user.note", "value", 5, 0) != 0 ||
        ::setxattr((root + "/var").c_str(), "user.on_dir", "dir", 3, 0) != 0)
        throw std::runtime_error("set user attributes");
    // security.capability: cap_net_raw=ep, as setcap writes it
    const unsigned char capability[20] = {1, 0, 0, 2, 0, 0x20};
    if (::setxattr((root + "/random").c_str(), "security.capability", capability, sizeof capability, 0) != 0)
        throw std::runtime_error("set security.capability");
}

struct Fidelity : testing::TestWithParam<const char *> {};

TEST_P(Fidelity, EqualsTheTree) {
    TempDir from, to, work;
    make_tree(from.path);
    const std::string tar = work.path + "/layer";
    shell_in(work.path, "tar -C " + from.path + " " + GetParam() + " -cf " + tar + ".tar . && gzip -1 -k " +
                            tar + ".tar && zstd -q " + tar + ".tar");
    const auto expected = describe(from.path);
    const std::string plain = read_file(tar + ".tar", 1u << 30);
    for (const char *suffix : {".tar", ".tar.gz", ".tar.zst"}) {
        TempDir out;
        const UnpackResult result =
            unpack(read_file(tar + suffix, 1u << 30), out.path, GANTRY_WHITEOUT_OVERLAY);
        EXPECT_EQ(difference(expected, describe(out.path)), "") << suffix;
        EXPECT_EQ(result.diff_id, sha256_of(plain));
        EXPECT_EQ(result.bytes, plain.size());
        struct stat st {};
        ASSERT_EQ(::stat((out.path + "/hole").c_str(), &st), 0);
        if (std::string(GetParam()).find("sparse") != std::string::npos) EXPECT_LT(st.st_blocks, 100);
    }
}
INSTANTIATE_TEST_SUITE_P(
    Formats, Fidelity,
    testing::Values("--format=pax --xattrs --xattrs-include='*' --sparse",
                    "--format=pax --xattrs --xattrs-include='*'",
                    "--format=pax --xattrs --xattrs-include='*' --sparse --sparse-version=0.1"));

TEST(Unpack, GnuFormatKeepsAllButNanosecondsAndXattrs) {
    TempDir from, to;
    shell_in(from.path,
             R"sh(n=$(printf '%0200d' 7) && mkdir $n && echo long > $n/$n && ln -s $n/$n l && ln $n/$n h
truncate -s 5M sparse && echo x | dd of=sparse bs=1 seek=2000000 conv=notrunc status=none
touch "$(printf 'latin\351')" 'ünïcödé' && chown 3000000:3000000 h && find . -exec touch -h -d @1500000000 {} +
tar --format=gnu --sparse -cf )sh" +
                 to.path + "/t.tar .");
    const std::string tar = read_file(to.path + "/t.tar", 1u << 30);
    TempDir out;
    unpack(tar, out.path, GANTRY_WHITEOUT_OVERLAY);
    EXPECT_EQ(difference(describe(from.path), describe(out.path)), "");
}

bool is_whiteout(const std::string &path) {
    struct stat st {};
    return ::lstat(path.c_str(), &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == 0;
}
bool is_opaque(const std::string &path) {
    char value[4] = {};
    return ::lgetxattr(path.c_str(), "trusted.overlay.opaque", value, sizeof value) == 1 && value[0] == 'y';
}

TEST(Unpack, WhiteoutsForOverlay) {
    TempDir out;
    unpack(Tar()
               .dir("d")
               .file("d/.wh.gone")
               .file("d/.wh..wh..opq", "")
               .file("d/new")
               .file(".wh.top")
               .file("e/f/.wh.implicit")
               .file("both")
               .file(".wh.both") // the layer's own file stays
               .dir("keepdir")
               .file("keepdir/x")
               .file(".wh.keepdir") // replaces the directory below
               .file(".wh.redone")
               .dir("redone")
               .file("redone/x")
               .file(".wh..wh.plnk")
               .done(),
           out.path, GANTRY_WHITEOUT_OVERLAY);
    EXPECT_TRUE(is_whiteout(out.path + "/d/gone"));
    EXPECT_TRUE(is_opaque(out.path + "/d"));
    EXPECT_TRUE(is_whiteout(out.path + "/top"));
    EXPECT_TRUE(is_whiteout(out.path + "/e/f/implicit"));
    EXPECT_EQ(read_file(out.path + "/both"), "x");
    EXPECT_TRUE(is_opaque(out.path + "/keepdir"));
    EXPECT_TRUE(is_opaque(out.path + "/redone"));
    EXPECT_TRUE(path_exists(out.path + "/redone/x"));
    for (const auto &[path, line] : describe(out.path))
        EXPECT_EQ(path.find(".wh."), std::string::npos) << path;
}

TEST(Unpack, WhiteoutsReallyDelete) {
    TempDir out;
    shell_in(out.path,
             "mkdir -p d/sub d/keep gone/deep x && touch d/a d/sub/b d/keep/old gone/deep/f x/y top both");
    unpack(Tar()
               .dir("d")
               .dir("d/keep")
               .file("d/keep/new")
               .file("d/.wh..wh..opq", "")
               .file("d/after")
               .file(".wh.gone")
               .file("x/.wh.y")
               .file(".wh.top")
               .file("both", "mine")
               .file(".wh.both")
               .file(".wh.never")
               .done(),
           out.path, GANTRY_WHITEOUT_NONE);
    for (const char *deleted : {"d/a", "d/sub", "d/keep/old", "gone", "x/y", "top"})
        EXPECT_FALSE(path_exists(out.path + "/" + deleted)) << deleted;
    for (const char *kept : {"d/keep/new", "d/after", "x", "both"})
        EXPECT_TRUE(path_exists(out.path + "/" + kept)) << kept;
    EXPECT_EQ(read_file(out.path + "/both"), "mine");
}

TEST(Unpack, WhiteoutsVerbatimForAufs) {
    TempDir out;
    unpack(Tar().file("d/.wh.x", "").file("d/.wh..wh..opq", "").done(), out.path, GANTRY_WHITEOUT_AUFS);
    EXPECT_TRUE(path_exists(out.path + "/d/.wh.x"));
    EXPECT_TRUE(path_exists(out.path + "/d/.wh..wh..opq"));
}

TEST(Unpack, LaterEntriesReplaceEarlierOnes) {
    TempDir out;
    unpack(Tar()
               .dir("a")
               .file("a/f")
               .file("a", "now a file")
               .symlink("s", "/etc")
               .dir("s")
               .file("s/in")
               .file("t", "1")
               .file("t", "2")
               .symlink("u", "x")
               .symlink("u", "y")
               .dir("m", 0700)
               .file("m/k")
               .dir("m", 0755)
               .done(),
           out.path, GANTRY_WHITEOUT_OVERLAY);
    EXPECT_EQ(read_file(out.path + "/a"), "now a file");
    EXPECT_TRUE(path_exists(out.path + "/s/in"));
    EXPECT_FALSE(path_exists("/etc/in"));
    EXPECT_EQ(read_file(out.path + "/t"), "2");
    EXPECT_TRUE(path_exists(out.path + "/m/k"));
}

// Each must be refused, or have no effect outside; `secret` lies beside the root.
TEST(Unpack, HostileArchivesStayInside) {
    TempDir outer;
    const std::string root = outer.path + "/root", secret = outer.path + "/secret";
    struct Case {
        const char *name;
        Tar tar;
        bool refused;
    };
    const std::string abs = outer.path;
    const Case cases[] = {
        {"dotdot", Tar().file("../secret", "bad"), true},
        {"dotdot inside", Tar().dir("a").file("a/../../secret", "bad"), true},
        {"dotdot whiteout", Tar().file("../.wh.secret"), true},
        {"whiteout of dotdot", Tar().dir("a").file("a/.wh...", ""), true},
        {"whiteout of dot", Tar().file(".wh..", ""), true},
        {"absolute", Tar().file(secret, "bad"), false},
        {"symlink then file", Tar().symlink("l", abs).file("l/secret", "bad"), true},
        {"relative symlink", Tar().symlink("l", "..").file("l/secret", "bad"), false},
        {"symlink as the file", Tar().symlink("l", secret).file("l", "bad"), false},
        {"symlink chain",
         Tar().dir("d").symlink("d/up", "..").symlink("l", "d/up/..").file("l/secret", "bad"), false},
        {"symlink swap", Tar().dir("d").file("d/x").symlink("d", abs).file("d/secret", "bad"), true},
        {"hard link outside", Tar().hard_link("h", "../secret"), true},
        {"hard link absolute", Tar().hard_link("h", secret).file("h", "bad"), true},
        {"hard link through symlink", Tar().symlink("l", "..").hard_link("h", "l/secret").file("h", "bad"),
         true},
        {"hard link to symlink", Tar().symlink("l", secret).hard_link("h", "l").file("h", "bad"), false},
        {"hard link to directory", Tar().dir("d").hard_link("h", "d"), true},
        {"hard link to root", Tar().hard_link("h", "."), true},
        {"magic link", Tar().symlink("l", "/proc/self/root" + abs).file("l/secret", "bad"), true},
        {"whiteout through symlink", Tar().symlink("l", "..").file("l/.wh.secret", ""), false},
        {"opaque through symlink", Tar().symlink("l", "..").file("l/.wh..wh..opq", ""), false},
        {"root as file", Tar().file("./", "bad"), true},
        {"root as symlink", Tar().symlink(".", abs), true},
        {"empty symlink", Tar().symlink("l", ""), true},
        {"file as directory", Tar().file("f").file("f/x"), true},
        {"long name", Tar().file(std::string(300, 'n')), true},
        {"long path", Tar().file([] {
             std::string p;
             for (int i = 0; i < 3000; ++i)
                 p += "d/";
             return p + "f";
         }()),
         true},
        {"overlay redirect", Tar().pax("SCHILY.xattr.trusted.overlay.redirect", "/../secret").dir("d"), true},
        {"overlay opaque", Tar().pax("SCHILY.xattr.trusted.overlay.opaque", "y").dir("d"), true},
        {"user overlay", Tar().pax("SCHILY.xattr.user.overlay.redirect", "/x").dir("d"), true},
        {"trusted on symlink", Tar().pax("SCHILY.xattr.trusted.x", "y").symlink("l", "t"), true},
        {"huge xattr", Tar().pax("SCHILY.xattr.user.x", std::string(100000, 'v')).file("f"), true},
        {"negative owner", Tar().pax("uid", "-5").file("f"), true},
        {"unknown xattr", Tar().pax("SCHILY.xattr.security.selinux", "x").file("f"), false},
    };
    for (const Case &c : cases)
        for (const auto format : {GANTRY_WHITEOUT_OVERLAY, GANTRY_WHITEOUT_NONE, GANTRY_WHITEOUT_AUFS}) {
            if (format == GANTRY_WHITEOUT_AUFS && std::string(c.name).find("whiteout") != std::string::npos)
                continue;
            remove_tree(root);
            make_directories(root, 0755);
            write_file_atomically(secret, "precious", 0600, false);
            const auto before = describe(outer.path, true);
            bool refused = false;
            std::string message;
            try {
                unpack(c.tar.done(), root, format);
            } catch (const Error &error) {
                refused = true;
                message = error.message();
                EXPECT_EQ(message.rfind("unpack entry", 0), 0u) << c.name << ": " << message;
            }
            EXPECT_EQ(refused, c.refused) << c.name << " format " << format << ": " << message;
            ASSERT_EQ(read_file(secret), "precious") << c.name;
            struct stat st {};
            ASSERT_EQ(::stat(secret.c_str(), &st), 0);
            EXPECT_EQ(st.st_nlink, 1u) << c.name;
            EXPECT_EQ(list_directory(outer.path).size(), 2u) << c.name << " left something outside";
        }
}

TEST(Unpack, LimitsHold) {
    TempDir out;
    UnpackLimits limits;
    limits.max_entries = 3;
    EXPECT_THROW(unpack(Tar().file("a").file("b").file("c").file("d").done(), out.path,
                        GANTRY_WHITEOUT_OVERLAY, limits),
                 Error);
    limits = {};
    limits.max_bytes = 5000;
    EXPECT_THROW(
        unpack(Tar().file("a", std::string(6000, 'x')).done(), out.path, GANTRY_WHITEOUT_OVERLAY, limits),
        Error);
    // 400 MiB of zeros in one zstd file of a few KiB.
    TempDir work;
    shell_in(work.path, "truncate -s 400M zeros && tar -cf - zeros | zstd -q > bomb");
    try {
        unpack(read_file(work.path + "/bomb"), out.path, GANTRY_WHITEOUT_OVERLAY);
        FAIL() << "a bomb was unpacked";
    } catch (const Error &error) {
        EXPECT_NE(error.message().find("expands more than"), std::string::npos) << error.message();
    }
}

TEST(Unpack, TruncationAndDamageAreErrors) {
    const std::string tar = Tar().file("a", std::string(5000, 'x')).file("b", std::string(3000, 'y')).done();
    for (const size_t cut : {100ul, 600ul, 3000ul, 6000ul}) {
        TempDir out;
        EXPECT_THROW(unpack(tar.substr(0, cut), out.path, GANTRY_WHITEOUT_OVERLAY), Error) << cut;
    }
    std::string damaged = tar;
    damaged[512 + 5120 + 10] ^= 1; // name in the second header: its checksum is wrong now
    TempDir out;
    EXPECT_THROW(unpack(damaged, out.path, GANTRY_WHITEOUT_OVERLAY), Error);
    EXPECT_THROW(unpack(std::string(5000, 'z'), out.path, GANTRY_WHITEOUT_OVERLAY), Error);
}

TEST(Unpack, TheLastFilesPaddingMayBeMissing) {
    const std::string tar = Tar().file("a", std::string(5000, 'x')).file("b", std::string(3000, 'y')).done();
    const size_t whole = 512 + 5120 + 512 + 3000;
    for (const size_t cut : {whole, whole + 50}) {
        TempDir out;
        const auto result = unpack(tar.substr(0, cut), out.path, GANTRY_WHITEOUT_OVERLAY);
        EXPECT_EQ(result.entries, 2u);
        EXPECT_EQ(result.diff_id, sha256_of(tar.substr(0, cut)));
        EXPECT_EQ(read_file(out.path + "/b"), std::string(3000, 'y'));
    }
    TempDir out;
    EXPECT_THROW(unpack(tar.substr(0, whole - 1), out.path, GANTRY_WHITEOUT_OVERLAY), Error);
}

TEST(Unpack, PaddingAndTrailingBytesCountForTheDigest) {
    TempDir out;
    const std::string tar = Tar().file("a").done(1 << 20);
    EXPECT_EQ(unpack(tar, out.path, GANTRY_WHITEOUT_OVERLAY).diff_id, sha256_of(tar));
}

TEST(Unpack, SourceFailureAndCancellationEndIt) {
    TempDir out;
    const UniqueFd root = open_file(out.path, O_PATH | O_DIRECTORY);
    const std::string tar = Tar().file("a", std::string(1 << 20, 'x')).done();
    const CallScope scope;
    int calls = 0;
    const ByteSource failing = [&](void *p, size_t n) -> size_t {
        if (++calls > 2) throw Error(ErrorClass::kUnavailable, "fetch: the line was cut");
        std::memcpy(p, tar.data(), std::min<size_t>(n, 3000));
        return std::min<size_t>(n, 3000);
    };
    try {
        unpack_layer(failing, root.get(), GANTRY_WHITEOUT_OVERLAY, {}, scope);
        FAIL();
    } catch (const Error &error) {
        EXPECT_EQ(error.error_class(), ErrorClass::kUnavailable) << error.message();
    }
    CancelSource cancel;
    cancel.cancel();
    CallScope::Settings settings;
    settings.cancel = &cancel;
    const CallScope cancelled(settings);
    try {
        unpack_layer(source_of(tar), root.get(), GANTRY_WHITEOUT_OVERLAY, {}, cancelled);
        FAIL();
    } catch (const Error &error) {
        EXPECT_EQ(error.error_class(), ErrorClass::kCancelled) << error.message();
    }
}

} // namespace
} // namespace gantry
