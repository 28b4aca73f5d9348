// The ground: files, ids, times, cancellation and the error sink.
#include "core/base/cancel.h"
#include "core/base/files.h"
#include "core/base/ids.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {
namespace {

class FilesTest : public testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/gantry-base-XXXXXX";
        ASSERT_NE(::mkdtemp(name), nullptr);
        root_ = name;
    }
    void TearDown() override { remove_tree(root_); }
    std::string root_;
};

TEST_F(FilesTest, AtomicWriteReplacesWholeFileAndLeavesNoTemporary) {
    const std::string path = root_ + "/file";
    write_file_atomically(path, "old", 0600, false);
    write_file_atomically(path, "new", 0640, true);
    EXPECT_EQ(read_file(path), "new");
    struct stat st {};
    ASSERT_EQ(::stat(path.c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 07777, 0640u);
    EXPECT_EQ(list_directory(root_).size(), 1u);
}

TEST_F(FilesTest, AtomicWriteFailureNamesThePathAndLeavesNothing) {
    try {
        write_file_atomically(root_ + "/no/such/file", "x", 0600, false);
        FAIL() << "must throw";
    } catch (const Error &e) {
        EXPECT_EQ(e.error_class(), ErrorClass::kNotFound);
        EXPECT_NE(e.message().find(root_ + "/no/such/file"), std::string::npos);
    }
}

TEST_F(FilesTest, RemoveTreeDoesNotFollowLinks) {
    make_directories(root_ + "/outside", 0700);
    write_file_atomically(root_ + "/outside/keep", "x", 0600, false);
    make_directories(root_ + "/tree/a/b", 0700);
    ASSERT_EQ(::symlink((root_ + "/outside").c_str(), (root_ + "/tree/a/link").c_str()), 0);
    remove_tree(root_ + "/tree");
    EXPECT_FALSE(path_exists(root_ + "/tree"));
    EXPECT_TRUE(path_exists(root_ + "/outside/keep"));
    remove_tree(root_ + "/tree"); // idempotent
}

TEST_F(FilesTest, ReadRefusesMoreThanTheLimit) {
    write_file_atomically(root_ + "/big", std::string(100, 'x'), 0600, false);
    EXPECT_EQ(read_file(root_ + "/big", 100).size(), 100u);
    EXPECT_THROW(read_file(root_ + "/big", 99), Error);
}

TEST_F(FilesTest, MissingFileIsNotAnErrorWhereThatIsAsked) {
    bool found = true;
    EXPECT_EQ(read_file_if(root_ + "/none", found), "");
    EXPECT_FALSE(found);
    EXPECT_TRUE(list_directory(root_ + "/none").empty());
}

TEST(Ids, AreLongDifferentAndNeverANumber) {
    const std::string a = new_id(), b = new_id();
    EXPECT_EQ(a.size(), 64u);
    EXPECT_NE(a, b);
    EXPECT_NE(a.substr(0, 12).find_first_not_of("0123456789"), std::string::npos);
}

TEST(Times, PrintAsDockerDoes) {
    EXPECT_EQ(rfc3339(0), "0001-01-01T00:00:00Z");
    EXPECT_EQ(rfc3339(1000000000LL), "1970-01-01T00:00:01Z");
    EXPECT_EQ(rfc3339(1795473886968448414LL).substr(19), ".968448414Z");
    EXPECT_EQ(rfc3339(1500000000LL), "1970-01-01T00:00:01.5Z");
}

TEST(Times, ParseEveryFormThatClientsSend) {
    int64_t t = 0;
    ASSERT_TRUE(parse_time("1970-01-01T00:00:01.5Z", t));
    EXPECT_EQ(t, 1500000000LL);
    ASSERT_TRUE(parse_time("1970-01-01T02:00:01+02:00", t));
    EXPECT_EQ(t, 1000000000LL);
    ASSERT_TRUE(parse_time("1136073600.000000001", t));
    EXPECT_EQ(t, 1136073600000000001LL);
    ASSERT_TRUE(parse_time("0", t));
    EXPECT_EQ(t, 0);
    for (const char *bad : {"", "yesterday", "12x", "1970-01-01T00:00:01Zx", "-5"})
        EXPECT_FALSE(parse_time(bad, t)) << bad;
}

TEST(Cancel, IsSeenByTheCallAndByPoll) {
    CancelSource cancel;
    CallScope scope({.cancel = &cancel});
    EXPECT_FALSE(scope.call().cancelled());
    EXPECT_NO_THROW(scope.call().check("work"));
    cancel.cancel();
    cancel.cancel();
    EXPECT_TRUE(scope.call().cancelled());
    try {
        scope.call().check("copy layer");
        FAIL() << "must throw";
    } catch (const Error &e) {
        EXPECT_EQ(e.error_class(), ErrorClass::kCancelled);
        EXPECT_EQ(e.message().rfind("copy layer: ", 0), 0u);
    }
}

TEST(Cancel, DeadlineEndsTheCall) {
    CallScope scope({.timeout_ns = 1});
    EXPECT_EQ(scope.call().remaining_ms(), 0);
    EXPECT_THROW(scope.call().check("wait"), Error);
}

TEST(ErrorSink, BecomesAnExceptionWithSentenceHintAndErrno) {
    CallScope scope;
    const gantry_error_sink *sink = scope.raw()->error;
    sink->set(sink->ctx, GANTRY_NO_SPACE, ENOSPC, "write layer: disk full", "free some space");
    try {
        scope.check(GANTRY_NO_SPACE, "create");
        FAIL() << "must throw";
    } catch (const Error &e) {
        EXPECT_EQ(e.error_class(), ErrorClass::kNoSpace);
        EXPECT_EQ(e.message(), "write layer: disk full");
        EXPECT_EQ(e.hint(), "free some space");
        EXPECT_EQ(e.errno_value(), ENOSPC);
    }
    EXPECT_NO_THROW(scope.check(GANTRY_OK, "create"));
}

TEST(ErrorSink, AnUnknownStatusIsInternalAndNamesTheCall) {
    CallScope scope;
    try {
        scope.check(77, "create layer l1");
        FAIL() << "must throw";
    } catch (const Error &e) {
        EXPECT_EQ(e.error_class(), ErrorClass::kInternal);
        EXPECT_NE(e.message().find("create layer l1"), std::string::npos);
    }
}

} // namespace
} // namespace gantry
