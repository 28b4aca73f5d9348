// Gzip and zstd streams cut, joined and damaged in every place. No root needed.
#include "core/layer/decompress.h"
#include "core/layer/layers.h"
#include "core/layer/rooted.h"

#include <gantry/error.hpp>

#include <cstdio>
#include <cstring>
#include <gtest/gtest.h>
#include <unistd.h>

namespace gantry {
namespace {

// Made by other people's tools.
std::string filtered(const std::string &command, const std::string &input) {
    const std::string in = testing::TempDir() + "gantry-filter-" + std::to_string(::getpid());
    FILE *f = std::fopen(in.c_str(), "w");
    std::fwrite(input.data(), 1, input.size(), f);
    std::fclose(f);
    FILE *p = ::popen((command + " < " + in).c_str(), "r");
    std::string out;
    char buffer[4096];
    for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, p)) > 0;)
        out.append(buffer, n);
    EXPECT_EQ(::pclose(p), 0);
    ::unlink(in.c_str());
    return out;
}

std::string sample() {
    std::string text;
    for (int i = 0; i < 30000; ++i)
        text += "line " + std::to_string(i * 7919 % 10007) + "\n";
    return text;
}

ByteSource from(const std::string &bytes, size_t chunk) {
    return [&bytes, chunk, at = size_t{0}](void *out, size_t size) mutable {
        const size_t n = std::min({size, chunk, bytes.size() - at});
        std::memcpy(out, bytes.data() + at, n);
        at += n;
        return n;
    };
}

std::string decompressed(const std::string &bytes, size_t chunk, size_t read = 70000) {
    const ByteSource source = from(bytes, chunk);
    const auto stream = open_decompressor(source);
    std::string out, buffer(read, '\0');
    for (size_t n; (n = stream->read(buffer.data(), buffer.size())) > 0;)
        out.append(buffer, 0, n);
    return out;
}

TEST(Decompress, DetectsAndReads) {
    const std::string text = sample();
    const std::string gz = filtered("gzip -c", text), zst = filtered("zstd -c -q", text);
    for (size_t chunk : {1, 7, 4096, 1 << 20}) {
        EXPECT_EQ(decompressed(text, chunk), text);
        EXPECT_EQ(decompressed(gz, chunk), text) << chunk;
        EXPECT_EQ(decompressed(gz + gz, chunk), text + text) << "members, " << chunk;
        EXPECT_EQ(decompressed(gz + std::string(1000, '\0'), chunk), text) << "padding, " << chunk;
        EXPECT_EQ(decompressed(zst, chunk), text) << chunk;
        EXPECT_EQ(decompressed(zst + zst, chunk, 100), text + text) << "frames, " << chunk;
    }
}

TEST(Decompress, ManySmallMembers) {
    const std::string one = filtered("gzip -c", "abc"), empty = filtered("gzip -c", "");
    std::string gz, text;
    for (int i = 0; i < 200; ++i) {
        gz += one + empty;
        text += "abc";
    }
    for (size_t chunk : {1, 2, 3, 5, 11, 1000})
        EXPECT_EQ(decompressed(gz, chunk, 5), text) << chunk;
}

TEST(Decompress, EveryCutIsAnError) {
    const std::string text = sample().substr(0, 3000);
    for (const std::string &whole : {filtered("gzip -c", text), filtered("zstd -c -q --check", text)})
        for (size_t cut = 4; cut < whole.size(); ++cut)
            EXPECT_THROW(decompressed(whole.substr(0, cut), 1 << 20), Error) << cut << " of " << whole.size();
}

TEST(Decompress, DamageIsAnError) {
    const std::string text = sample();
    for (std::string whole : {filtered("gzip -c", text), filtered("zstd -c -q --check", text)}) {
        std::string flipped = whole;
        flipped[flipped.size() / 2] ^= 0x10;
        EXPECT_THROW(decompressed(flipped, 1 << 20), Error);
        std::string tail = whole;
        tail[tail.size() - 3] ^= 1; // length or checksum
        EXPECT_THROW(decompressed(tail, 1 << 20), Error);
        EXPECT_THROW(decompressed(whole + "garbage", 1 << 20), Error);
    }
    EXPECT_THROW(decompressed(filtered("bzip2 -c || printf BZh91AY", text), 100), Error);
}

TEST(EntryPath, IsCleanedAndConfined) {
    EXPECT_EQ(clean_entry_path("./a//b/./c/"), "a/b/c");
    EXPECT_EQ(clean_entry_path("/etc/passwd"), "etc/passwd");
    EXPECT_EQ(clean_entry_path("a/../b"), "b");
    EXPECT_EQ(clean_entry_path("./"), "");
    for (const char *bad : {"..", "../x", "a/../../b", "/../x"})
        EXPECT_THROW(clean_entry_path(bad), Error) << bad;
    EXPECT_THROW(clean_entry_path(std::string(256, 'a')), Error);
    std::string deep;
    for (int i = 0; i < 2100; ++i)
        deep += "a/";
    EXPECT_THROW(clean_entry_path(deep), Error);
}

TEST(ChainId, FollowsTheSpecification) {
    EXPECT_EQ(chain_id_of("", "sha256:aa"), "sha256:aa");
    EXPECT_EQ(chain_id_of("sha256:aa", "sha256:bb").size(), 71u);
    EXPECT_NE(chain_id_of("sha256:aa", "sha256:bb"), chain_id_of("sha256:bb", "sha256:aa"));
}

} // namespace
} // namespace gantry
