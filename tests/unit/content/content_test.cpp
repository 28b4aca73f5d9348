// The blob store: verification, resumption after a kill, recovery.
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/content/content.h"
#include "core/store/db.h"

#include <gantry/error.hpp>

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <utime.h>

namespace gantry {
namespace {

struct Content : testing::Test {
    std::string root = testing::TempDir() + "gantry-content-" + random_hex(6);
    std::unique_ptr<Db> db;
    std::unique_ptr<ContentStore> store;
    void SetUp() override {
        make_directories(root, 0700);
        reopen();
    }
    void TearDown() override {
        store.reset();
        db.reset();
        remove_tree(root);
    }
    void reopen(bool durable = true) {
        store.reset();
        db.reset();
        db = std::make_unique<Db>(root + "/db");
        store = std::make_unique<ContentStore>(root, *db, durable);
    }
    std::string partial(const std::string &digest) const {
        return root + "/content/ingest/" + digest + ".partial";
    }
};

template <typename Work> ErrorClass class_of(Work work) {
    try {
        work();
    } catch (const Error &error) {
        return error.error_class();
    }
    ADD_FAILURE() << "nothing was thrown";
    return ErrorClass::kInternal;
}

TEST(Digest, IsJudgedStrictly) {
    EXPECT_NO_THROW(check_digest("sha256:" + std::string(64, 'a')));
    EXPECT_NO_THROW(check_digest("sha512:" + std::string(128, '0')));
    for (const std::string &bad : {std::string(), std::string("sha256:"), "sha256:" + std::string(63, 'a'),
                                   "sha256:" + std::string(64, 'A'), "md5:" + std::string(32, 'a'),
                                   "sha256:../" + std::string(61, 'a'), "sha256" + std::string(65, 'a')})
        EXPECT_EQ(class_of([&] { check_digest(bad); }), ErrorClass::kInvalidArgument) << bad;
    EXPECT_EQ(sha256_of("abc"), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_F(Content, PutReadRemove) {
    const std::string digest = store->put("hello", "text/plain");
    EXPECT_TRUE(store->has(digest));
    EXPECT_EQ(store->read(digest, 100), "hello");
    EXPECT_EQ(store->size(digest), 5u);
    EXPECT_EQ(store->put("hello", "text/plain", digest), digest);
    EXPECT_EQ(store->list(), std::vector<std::string>{digest});
    EXPECT_EQ(class_of([&] { store->put("other", "", digest); }), ErrorClass::kDataLoss);
    EXPECT_EQ(class_of([&] { store->read(digest, 4); }), ErrorClass::kInvalidArgument);
    store->remove(digest);
    EXPECT_FALSE(store->has(digest));
    EXPECT_EQ(class_of([&] { store->open(digest); }), ErrorClass::kNotFound);
    store->remove(digest);
}

TEST_F(Content, DamageOnDiskIsSeen) {
    const std::string digest = store->put("hello", "");
    write_file_atomically(root + "/content/blobs/sha256/" + digest.substr(7), "jello", 0600, false);
    EXPECT_EQ(class_of([&] { store->read(digest, 100); }), ErrorClass::kDataLoss);
}

TEST_F(Content, IngestVerifies) {
    const std::string digest = sha256_of("0123456789");
    {
        auto in = store->ingest(digest, 10, "t");
        in->write("01234", 5);
        EXPECT_EQ(class_of([&] { in->commit(); }), ErrorClass::kDataLoss); // short: the partial stays
        EXPECT_EQ(class_of([&] { in->write("567890", 6); }), ErrorClass::kDataLoss);
        in->write("56789", 5);
        in->commit();
        EXPECT_EQ(read_all(in->reader().get(), 100, "blob"), "0123456789");
    }
    EXPECT_EQ(store->read(digest, 100), "0123456789");
    const std::string other = sha256_of("abc");
    auto wrong = store->ingest(other, 3, "t");
    wrong->write("abd", 3);
    EXPECT_EQ(class_of([&] { wrong->commit(); }), ErrorClass::kDataLoss);
    wrong.reset();
    EXPECT_FALSE(store->has(other));
    EXPECT_EQ(store->ingest(other, 3, "t")->written(), 0u)
        << "bytes with a wrong digest must not be continued";
}

TEST_F(Content, ContinuesAfterKill) {
    const std::string bytes(300000, 'x');
    const std::string digest = sha256_of(bytes);
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        auto in = store->ingest(digest, bytes.size(), "t");
        in->write(bytes.data(), 123457);
        (void)!::write(ready[1], "x", 1);
        ::pause();
        ::_exit(0);
    }
    char c = 0;
    ASSERT_EQ(::read(ready[0], &c, 1), 1);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ::close(ready[0]);
    ::close(ready[1]);
    reopen();
    store->recover();
    auto in = store->ingest(digest, bytes.size(), "t");
    ASSERT_EQ(in->written(), 123457u);
    in->write(bytes.data() + 123457, bytes.size() - 123457);
    in->commit();
    EXPECT_EQ(store->read(digest, 1 << 20), bytes);
    EXPECT_FALSE(path_exists(partial(digest)));
}

TEST_F(Content, SecondIngestWaitsAndFindsTheBlob) {
    const std::string digest = sha256_of("abc");
    auto first = store->ingest(digest, 3, "t");
    uint64_t seen = 99;
    std::thread second([&] {
        auto in = store->ingest(digest, 3, "t");
        seen = in->written();
        in->commit();
    });
    first->write("abc", 3);
    first->commit();
    EXPECT_EQ(seen, 99u);
    first.reset();
    second.join();
    EXPECT_EQ(seen, 3u);
}

TEST_F(Content, RecoverAgreesFilesAndRows) {
    const std::string kept = store->put("kept", ""), gone = store->put("gone", ""),
                      torn = store->put("torn", "");
    const std::string blobs = root + "/content/blobs/sha256/";
    ASSERT_EQ(::unlink((blobs + gone.substr(7)).c_str()), 0);
    ASSERT_EQ(::truncate((blobs + torn.substr(7)).c_str(), 2), 0);
    const std::string stray = blobs + std::string(64, 'b');
    write_file_atomically(stray, "x", 0600, false);
    const std::string old = partial("sha256:" + std::string(64, 'c')),
                      fresh = partial("sha256:" + std::string(64, 'd'));
    write_file_atomically(old, "x", 0600, false);
    write_file_atomically(fresh, "x", 0600, false);
    const utimbuf long_ago{1000000000, 1000000000};
    ASSERT_EQ(::utime(old.c_str(), &long_ago), 0);
    reopen();
    store->recover();
    EXPECT_EQ(store->list(), std::vector<std::string>{kept});
    EXPECT_FALSE(path_exists(stray));
    EXPECT_FALSE(store->has(torn));
    EXPECT_FALSE(path_exists(old));
    EXPECT_TRUE(path_exists(fresh));
}

} // namespace
} // namespace gantry
