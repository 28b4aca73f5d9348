// Interrupted downloads: what the journal claims after kills and reboots, holes, blame, age and budget.
#include "core/base/failpoint.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/content/content.h"
#include "core/content/journal.h"
#include "core/store/db.h"

#include <gantry/error.hpp>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <utime.h>

namespace gantry {
namespace {

std::string noise(size_t size, unsigned seed = 1) {
    std::string out(size, '\0');
    uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;
    for (char &c : out) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        c = static_cast<char>(x);
    }
    return out;
}

struct Partials : testing::Test {
    std::string root = testing::TempDir() + "gantry-partials-" + random_hex(6);
    std::unique_ptr<Db> db;
    std::unique_ptr<ContentStore> store;
    const std::string bytes = noise(5 << 20);
    const std::string digest = sha256_of(bytes);

    void SetUp() override {
        make_directories(root, 0700);
        reopen();
    }
    void TearDown() override {
        store.reset();
        db.reset();
        remove_tree(root);
    }
    void reopen(bool durable = true, const PartialLimits &limits = {}) {
        store.reset();
        db.reset();
        db = std::make_unique<Db>(root + "/db");
        store = std::make_unique<ContentStore>(root, *db, durable, limits);
        store->recover();
    }
    std::string path(const std::string &of, const char *suffix) const {
        return root + "/content/ingest/" + of + suffix;
    }
    std::unique_ptr<Ingest> ingest() { return store->ingest(digest, bytes.size(), "t"); }
    void put(Ingest &in, uint64_t begin, uint64_t end, const std::string &endpoint) {
        for (uint64_t at = begin; at < end;) {
            const size_t n = std::min<uint64_t>(100'000, end - at);
            in.write_at(at, bytes.data() + at, n, endpoint);
            at += n;
        }
    }
    void fill(Ingest &in, const std::string &endpoint) {
        for (const BlobRange &range : in.missing())
            put(in, range.begin, range.end, endpoint);
    }
    /// What a child that is killed leaves.
    template <typename Work> void in_killed_child(Work work, const std::string &failpoint = {}) {
        int ready[2];
        ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
        // The store's own thread could hold a lock that nobody in the child would ever release.
        store.reset();
        db.reset();
        const pid_t child = ::fork();
        if (child == 0) {
            reopen();
            failpoints::arm(failpoint);
            work();
            (void)!::write(ready[1], "x", 1);
            ::pause();
            ::_exit(0);
        }
        ::close(ready[1]);
        char c = 0;
        ASSERT_EQ(::read(ready[0], &c, 1), failpoint.empty() ? 1 : 0);
        ::kill(child, SIGKILL);
        ::waitpid(child, nullptr, 0);
        ::close(ready[0]);
        reopen();
    }
};

TEST(HasherState, GoesOn) {
    for (const char *algorithm : {"sha256", "sha512"}) {
        const std::string text = noise(1000);
        Hasher whole(algorithm), first(algorithm), second(algorithm);
        whole.update(text.data(), text.size());
        first.update(text.data(), 333);
        const std::string state = first.state();
        EXPECT_FALSE(second.restore(state, 334));
        EXPECT_FALSE(second.restore(state.substr(1), 333));
        EXPECT_FALSE(Hasher(algorithm[3] == '2' ? "sha512" : "sha256").restore(state, 333));
        ASSERT_TRUE(second.restore(state, 333));
        second.update(text.data() + 333, 667);
        EXPECT_EQ(second.digest(), whole.digest());
        EXPECT_EQ(second.digest(), whole.digest()) << "asking ends nothing";
    }
}

TEST_F(Partials, HolesFillInAnyOrder) {
    auto in = ingest();
    put(*in, 3'000'000, 4'000'000, "b");
    EXPECT_EQ(in->written(), 0u);
    put(*in, 0, 1'000'000, "a");
    EXPECT_EQ(in->written(), 1'000'000u);
    EXPECT_EQ(in->missing(), (std::vector<BlobRange>{{1'000'000, 3'000'000}, {4'000'000, bytes.size()}}));
    in.reset(); // an error, Ctrl-C
    reopen();
    in = ingest();
    EXPECT_EQ(in->present(), 2'000'000u);
    EXPECT_EQ(in->missing(), (std::vector<BlobRange>{{1'000'000, 3'000'000}, {4'000'000, bytes.size()}}));
    put(*in, 500'000, bytes.size(), "c"); // what is there already is passed over
    ASSERT_TRUE(in->missing().empty());
    ASSERT_EQ(in->sources().size(), 3u);
    for (const auto &source : in->sources())
        EXPECT_EQ(source.bytes, source.endpoint == "c" ? bytes.size() - 2'000'000 : 1'000'000u);
    in->commit();
    in.reset();
    EXPECT_EQ(store->read(digest, bytes.size()), bytes);
    EXPECT_TRUE(list_directory(root + "/content/ingest").empty());
}

TEST_F(Partials, SeveralThreadsWriteOneBlob) {
    auto in = ingest();
    {
        std::vector<std::jthread> threads;
        for (unsigned i = 0; i < 4; ++i)
            threads.emplace_back([&, i] {
                for (uint64_t at = i * 64'000; at < bytes.size(); at += 4 * 64'000)
                    put(*in, at, std::min<uint64_t>(bytes.size(), at + 70'000), std::to_string(i)); // overlap
            });
    }
    EXPECT_TRUE(in->missing().empty());
    in->commit();
    EXPECT_EQ(store->read(digest, bytes.size()), bytes);
}

TEST_F(Partials, EveryKillLosesAtMostOneNote) {
    constexpr uint64_t kLost = 256 << 10;
    uint64_t before = 0;
    for (const char *point : {"", "blob.part:5", "partial.noted:3", "blob.part:1", "partial.noted:1"}) {
        in_killed_child(
            [&] {
                Ingest *in = ingest().release(); // a kill ends nothing in an orderly way
                const uint64_t at = in->written();
                put(*in, at, std::min<uint64_t>(bytes.size(), at + 900'000), "a");
            },
            point);
        auto in = ingest();
        EXPECT_GE(in->written(), before) << point;
        if (!*point) {
            EXPECT_GE(in->written(), 900'000 - kLost);
        }
        before = in->written();
        std::string there(before, '\0');
        ASSERT_EQ(::pread(in->reader().get(), there.data(), before, 0), static_cast<ssize_t>(before));
        EXPECT_TRUE(there == bytes.substr(0, before)) << "the journal claims what is not there";
    }
    EXPECT_GT(before, 0u);
    auto in = ingest();
    fill(*in, "b");
    in->commit();
    EXPECT_EQ(store->read(digest, bytes.size()), bytes);
}

TEST_F(Partials, KillsAroundTheEnd) {
    for (const char *point : {"blob.renamed", "partial.dropping"}) {
        in_killed_child(
            [&] {
                auto in = ingest();
                fill(*in, "a");
                std::string_view(point) == "blob.renamed" ? in->commit() : in->drop();
            },
            point);
        if (std::string_view(point) == "blob.renamed") { // verified, and all that is left to do is telling
            EXPECT_EQ(store->list(), std::vector<std::string>{digest});
            EXPECT_EQ(store->read(digest, bytes.size()), bytes);
            store->remove(digest);
        }
        EXPECT_FALSE(store->has(digest)) << point;
        auto in = ingest();
        EXPECT_EQ(in->present(), 0u) << point << ": bytes without a claim";
        fill(*in, "b");
        in->commit();
        in.reset();
        EXPECT_EQ(store->read(digest, bytes.size()), bytes);
        store->remove(digest);
    }
}

TEST_F(Partials, AfterARebootOnlySettledBytesCount) {
    const std::string journal = path(digest, ".journal");
    {
        auto in = ingest();
        put(*in, 0, 2'000'000, "a");
    } // settles
    in_killed_child([&] { put(*ingest().release(), 2'000'000, 4'000'000, "a"); });
    // As the machine would find it: other boot id in the notes.
    std::string content = read_file(journal);
    const size_t settled = 512 << 10;
    ASSERT_GT(content.size(), settled);
    std::string boot = read_file("/proc/sys/kernel/random/boot_id").substr(0, 36);
    for (size_t at = content.find(boot); at < settled; at = content.find(boot, at + 1))
        content[at] ^= 1;
    write_file_atomically(journal, content, 0600, false);
    EXPECT_EQ(ingest()->written(), 2'000'000u);
}

TEST_F(Partials, TornRecordLeavesTheOneBefore) {
    { put(*ingest(), 0, 3'000'000, "a"); }
    const std::string journal = path(digest, ".journal");
    const std::string content = read_file(journal);
    PartialJournal open(journal);
    ASSERT_TRUE(open.load());
    // One slot after the other spoilt: something older, and at last nothing, is found.
    std::string spoilt = content;
    uint64_t last = 3'000'000;
    for (const size_t slot : {3u, 2u, 1u, 0u}) {
        const size_t at = slot * (256 << 10) + 100;
        if (at < spoilt.size()) spoilt[at] ^= 0x40;
        write_file_atomically(journal, spoilt, 0600, false);
        const auto state = PartialJournal(journal).load();
        const uint64_t now = state ? state->prefix() : 0;
        EXPECT_LE(now, last);
        last = now;
    }
    EXPECT_EQ(last, 0u);
    EXPECT_EQ(ingest()->present(), 0u);
}

TEST_F(Partials, JournalOfAnotherFileIsRefused) {
    { put(*ingest(), 0, 3'000'000, "a"); }
    ASSERT_EQ(::truncate(path(digest, ".partial").c_str(), 2'000'000), 0);
    EXPECT_EQ(ingest()->present(), 0u);
    EXPECT_EQ(store->ingest(digest, bytes.size() + 1, "t")->present(), 0u);
}

TEST_F(Partials, DoubtBlamesTheRightOne) {
    auto in = ingest();
    put(*in, 0, 1'000'000, "good");
    std::string lie = bytes.substr(1'000'000, 500'000);
    lie[77] ^= 1;
    in->write_at(1'000'000, lie.data(), lie.size(), "liar");
    put(*in, 1'500'000, 2'000'000, "other");
    fill(*in, "good");
    EXPECT_FALSE(in->matches());
    EXPECT_EQ(in->doubt("other"), 500'000u);
    EXPECT_FALSE(in->matches());
    fill(*in, "good");
    EXPECT_FALSE(in->differed()) << "it gave the same bytes";
    EXPECT_FALSE(in->matches());
    EXPECT_EQ(in->doubt("liar"), 500'000u);
    EXPECT_EQ(in->missing(), (std::vector<BlobRange>{{1'000'000, 1'500'000}}));
    fill(*in, "good");
    EXPECT_TRUE(in->differed());
    EXPECT_TRUE(in->matches());
    in->commit();
    EXPECT_EQ(store->read(digest, bytes.size()), bytes);
}

TEST_F(Partials, AgeAndBudget) {
    std::vector<std::string> digests;
    PartialLimits limits;
    limits.ttl_ns = 100ll * 365 * 86400 * 1'000'000'000;
    reopen(true, limits);
    for (unsigned i = 0; i < 3; ++i) {
        const std::string content = noise(1 << 20, i + 2);
        digests.push_back(sha256_of(content));
        store->ingest(digests.back(), content.size(), "t")->write(content.data(), 700'000);
        const utimbuf when{1'000'000'000 + 100 * i, 1'000'000'000 + 100 * i};
        ASSERT_EQ(i == 2 ? 0 : ::utime(path(digests.back(), ".partial").c_str(), &when), 0);
    }
    limits.budget = 1'500'000;
    reopen(true, limits);
    auto left = store->partials();
    ASSERT_EQ(left.size(), 2u) << "the oldest of three is beyond the budget";
    EXPECT_EQ(left[0].digest, digests[1]);
    EXPECT_EQ(left[0].present, 700'000u);
    EXPECT_EQ(left[0].size, 1u << 20);
    EXPECT_GE(left[0].disk, 700'000u);
    reopen();
    left = store->partials();
    ASSERT_EQ(left.size(), 1u) << "the second is older than a week";
    auto in = store->ingest(digests[2], 1 << 20, "t");
    EXPECT_TRUE(store->partials().at(0).active);
    EXPECT_EQ(store->drop_partials(), 0u) << "somebody is at it";
    in.reset();
    EXPECT_GE(store->drop_partials(), 700'000u);
    EXPECT_TRUE(store->partials().empty());
    limits.ttl_ns = 0;
    reopen(true, limits);
    { put(*ingest(), 0, 1'000'000, "a"); }
    EXPECT_TRUE(store->partials().empty()) << "none is to be kept";
}

TEST_F(Partials, PutMendsWhatIsDamaged) {
    const std::string small = store->put("hello", "t");
    write_file_atomically(root + "/content/blobs/sha256/" + small.substr(7), "jello", 0600, false);
    store->put("hello", "t", small);
    EXPECT_EQ(store->read(small, 10), "hello");
}

} // namespace
} // namespace gantry
