// What the core shares between its threads: blobs, events, the log, the database.
#include "core/base/cancel.h"
#include "core/base/files.h"
#include "core/base/log.h"
#include "core/content/content.h"
#include "core/events/events.h"
#include "core/store/db.h"
#include "tests/threads/crowd.h"

#include <atomic>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

namespace gantry {
namespace {

using test::crowd;
using test::kCrowd;

struct Core : testing::Test {
    void SetUp() override {
        char path[] = "/tmp/gantry-threads-XXXXXX";
        dir = ::mkdtemp(path);
        db = std::make_unique<Db>(dir + "/db");
    }
    void TearDown() override {
        db.reset();
        remove_tree(dir);
    }
    std::string dir;
    std::unique_ptr<Db> db;
};

TEST_F(Core, TheSameBlobsAreStoredReadAndRemovedByAll) {
    make_directories(dir + "/content", 0700);
    ContentStore store(dir + "/content", *db, false);
    const std::string shared(100000, 's');
    const std::string shared_digest = sha256_of(shared);
    crowd([&](int me) {
        for (int round = 0; round < 5; ++round) {
            const std::string own = fmt::format("{} {}", me, round);
            const std::string digest = store.put(own, "text/plain");
            EXPECT_EQ(store.read(digest, 100), own);
            if (!store.has(shared_digest)) {
                const auto ingest = store.ingest(shared_digest, shared.size(), "text/plain");
                for (uint64_t at = ingest->written(); at < shared.size(); at = ingest->written())
                    ingest->write(shared.data() + at, std::min<size_t>(10000, shared.size() - at));
                ingest->commit();
            }
            EXPECT_EQ(store.size(shared_digest), shared.size());
            EXPECT_FALSE(store.list().empty());
            store.remove(digest);
            EXPECT_FALSE(store.has(digest));
        }
    });
    EXPECT_EQ(store.list(), std::vector<std::string>{shared_digest});
}

TEST_F(Core, EventsReachThoseWhoListenWhileOthersComeAndGo) {
    constexpr int kEach = 100;
    Events events;
    const auto all = events.subscribe(0);
    std::atomic<int> heard{0};
    crowd([&](int me) {
        for (int i = 0; i < kEach; ++i) {
            if (me % 2 == 0) {
                events.publish({"container", "start", fmt::format("{}-{}", me, i), {{"n", "v"}}, 0});
            } else {
                const auto mine = events.subscribe(1); // the past as well
                Event event;
                while (mine->next(event, 0))
                    ++heard;
                mine->close();
                while (mine->next(event, 0)) // what came before the close
                    ++heard;
                EXPECT_FALSE(mine->next(event, -1));
            }
        }
    });
    int published = 0;
    Event event;
    while (all->next(event, 0))
        ++published;
    EXPECT_EQ(published, kCrowd / 2 * kEach);
}

TEST_F(Core, ASubscriberIsWokenByACloseFromElsewhere) {
    Events events;
    const auto sleeper = events.subscribe(0);
    std::jthread closer([&] { sleeper->close(); });
    Event event;
    while (sleeper->next(event, -1)) {
    }
}

TEST_F(Core, LogLinesStayWholeWhileTheLevelChanges) {
    const std::string path = dir + "/log";
    const int saved = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    ASSERT_GE(file, 0);
    ::dup2(file, STDERR_FILENO);
    ::close(file);
    crowd([&](int me) {
        for (int i = 0; i < 100; ++i) {
            if (me == 0) set_log_level(i % 2 ? LogLevel::kError : LogLevel::kInfo);
            log_error("{} {} end", me, std::string(200, static_cast<char>('a' + me)));
            log_info("{}", me);
        }
    });
    set_log_level(LogLevel::kInfo);
    ::dup2(saved, STDERR_FILENO);
    ::close(saved);
    int whole = 0;
    const std::string text = read_file(path);
    for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
        const std::string line = text.substr(at, end - at);
        if (line.find(" error ") == std::string::npos) continue;
        EXPECT_TRUE(line.ends_with(" end")) << line;
        ++whole;
    }
    EXPECT_EQ(whole, kCrowd * 100);
}

TEST_F(Core, ACancellationReachesAllWhoPoll) {
    CancelSource cancel;
    crowd([&](int me) {
        if (me == 0) cancel.cancel();
        CallScope::Settings settings;
        settings.cancel = &cancel;
        const CallScope call(settings);
        while (!call.call().cancelled())
            std::this_thread::yield();
    });
}

TEST_F(Core, TransactionsOfAllThreadsAddUp) {
    db->transact([](Db &d) {
        d.prepare("CREATE TEMP TABLE sum (n INTEGER)").run();
        d.prepare("INSERT INTO sum VALUES (0)").run();
    });
    crowd([&](int) {
        for (int i = 0; i < 50; ++i)
            db->transact([](Db &d) { d.prepare("UPDATE sum SET n = n + 1").run(); });
    });
    db->transact([](Db &d) {
        auto q = d.prepare("SELECT n FROM sum");
        ASSERT_TRUE(q.step());
        EXPECT_EQ(q.integer(0), kCrowd * 50);
    });
}

} // namespace
} // namespace gantry
