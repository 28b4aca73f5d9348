// json-file logs: parsing, tail over rotated files, following across a rotation until the end.
#include "core/container/log_file.h"

#include "core/base/files.h"
#include "core/base/ids.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <mutex>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>

namespace gantry {
namespace {

std::string line(const std::string &text, int second, const char *stream = "stdout") {
    return R"({"log":")" + text + R"(\n","stream":")" + stream + R"(","time":")" +
           rfc3339(second * 1000000000LL) + "\"}\n";
}

struct LogTest : testing::Test {
    std::string root, path;
    UniqueFd end{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    CancelSource cancel;
    void SetUp() override {
        char name[] = "/tmp/gantry-log-XXXXXX";
        ASSERT_NE(::mkdtemp(name), nullptr);
        root = name;
        path = root + "/log";
    }
    void TearDown() override { remove_tree(root); }
    void append(const std::string &file, const std::string &text) {
        auto fd = open_file(file, O_WRONLY | O_CREAT | O_APPEND);
        write_all(fd.get(), text, file);
    }
    std::vector<std::string> read(LogQuery query) {
        std::vector<std::string> out;
        read_log(
            path, query, cancel, end.get(), [] { return true; },
            [&](const LogRecord &r) {
                out.push_back(r.text.substr(0, r.text.find('\n')));
                return true;
            });
        return out;
    }
};

using Lines = std::vector<std::string>;

TEST_F(LogTest, ParsesEscapes) {
    LogRecord r;
    ASSERT_TRUE(parse_log_line(
        R"({"log":"a\t\"\\\u003c\ud83d\ude00\r\n","stream":"stderr","time":"2026-11-24T00:00:00.5Z"})", r));
    EXPECT_EQ(r.text, "a\t\"\\<\xf0\x9f\x98\x80\r\n");
    EXPECT_EQ(r.stream, 2);
    EXPECT_EQ(r.time_ns % 1000000000, 500000000);
    for (const char *bad :
         {"", "{", "{}", R"({"log":"a)", R"({"log":"a","time":"x"})", R"({"log":"\u12"})", "nonsense"}) {
        EXPECT_FALSE(parse_log_line(bad, r)) << bad;
    }
}

TEST_F(LogTest, TailGoesThroughRotatedFiles) {
    append(path + ".2", line("1", 1) + line("2", 2));
    append(path + ".1", line("3", 3) + line("4", 4));
    append(path, line("5", 5) + line("6", 6));
    LogQuery q;
    EXPECT_EQ(read(q), (Lines{"1", "2", "3", "4", "5", "6"}));
    q.tail = 3;
    EXPECT_EQ(read(q), (Lines{"4", "5", "6"}));
    q.tail = 2;
    EXPECT_EQ(read(q), (Lines{"5", "6"}));
    q.tail = 0;
    EXPECT_EQ(read(q), Lines{});
    q.tail = 100;
    EXPECT_EQ(read(q).size(), 6u);
}

TEST_F(LogTest, FiltersStreamsAndTimes) {
    append(path, line("a", 1) + line("b", 2, "stderr") + "torn{\n" + line("c", 3));
    LogQuery q;
    q.stderr_ = false;
    EXPECT_EQ(read(q), (Lines{"a", "c"}));
    q.stderr_ = true;
    q.since_ns = 2000000000LL;
    q.until_ns = 2500000000LL;
    EXPECT_EQ(read(q), Lines{"b"});
}

TEST_F(LogTest, NoFileIsNoOutput) { EXPECT_EQ(read({}), Lines{}); }

TEST_F(LogTest, TailFindsOffsetAcrossBlocks) {
    std::string text;
    for (int i = 0; i < 3000; ++i)
        text += std::string(50, 'x') + "\n";
    append(path, text);
    auto fd = open_file(path, O_RDONLY);
    int64_t found = 0;
    EXPECT_EQ(tail_offset(fd.get(), 2000, found), 1000 * 51);
    EXPECT_EQ(found, 2000);
    EXPECT_EQ(tail_offset(fd.get(), 5000, found), 0);
    EXPECT_EQ(found, 3000);
}

TEST_F(LogTest, FollowsAcrossRotationUntilTheEnd) {
    append(path, line("one", 1));
    std::mutex mutex;
    std::condition_variable changed;
    Lines seen;
    std::atomic<bool> over{false};
    LogQuery q;
    q.follow = true;
    std::thread reader([&] {
        read_log(
            path, q, cancel, end.get(), [&] { return over.load(); },
            [&](const LogRecord &r) {
                std::lock_guard lock(mutex);
                seen.push_back(r.text.substr(0, r.text.find('\n')));
                changed.notify_all();
                return true;
            });
    });
    auto wait_for = [&](size_t count) {
        std::unique_lock lock(mutex);
        return changed.wait_for(lock, std::chrono::seconds(10), [&] { return seen.size() >= count; });
    };
    EXPECT_TRUE(wait_for(1));
    append(path, line("two", 2));
    EXPECT_TRUE(wait_for(2));
    append(path, line("three", 3));
    ASSERT_EQ(::rename(path.c_str(), (path + ".1").c_str()), 0);
    append(path, line("four", 4));
    EXPECT_TRUE(wait_for(4));
    append(path, line("five", 5));
    over = true;
    const uint64_t one = 1;
    ASSERT_EQ(::write(end.get(), &one, sizeof one), 8);
    reader.join();
    EXPECT_EQ(seen, (Lines{"one", "two", "three", "four", "five"}));
}

TEST_F(LogTest, CancelEndsFollowing) {
    LogQuery q;
    q.follow = true;
    std::thread reader([&] {
        read_log(
            path, q, cancel, end.get(), [] { return false; }, [](const LogRecord &) { return true; });
    });
    cancel.cancel();
    reader.join();
}

} // namespace
} // namespace gantry
