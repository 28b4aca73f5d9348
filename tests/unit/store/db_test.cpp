// The database: transactions, conflicts, foreign keys, schema versions, and a process that is killed.
#include "core/base/files.h"
#include "core/store/db.h"

#include <gantry/error.hpp>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <sys/wait.h>
#include <unistd.h>

namespace gantry {
namespace {

class DbTest : public testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/gantry-db-XXXXXX";
        ASSERT_NE(::mkdtemp(name), nullptr);
        root_ = name;
        path_ = root_ + "/gantry.db";
    }
    void TearDown() override { remove_tree(root_); }

    static void put(Db &db, const std::string &key, const std::string &value) {
        db.transact([&](Db &t) {
            t.prepare("INSERT OR REPLACE INTO meta(key, value) VALUES(?, ?)")
                .bind_all(std::string_view(key), std::string_view(value))
                .run();
        });
    }
    static std::string get(Db &db, const std::string &key) {
        std::string value;
        db.transact([&](Db &t) {
            Statement s = t.prepare("SELECT value FROM meta WHERE key = ?");
            s.bind(1, std::string_view(key));
            if (s.step()) value = s.text(0);
        });
        return value;
    }
    std::string root_, path_;
};

TEST_F(DbTest, CommitsAndReopens) {
    {
        Db db(path_);
        put(db, "a", "1");
        EXPECT_EQ(get(db, "a"), "1");
    }
    Db db(path_);
    EXPECT_EQ(get(db, "a"), "1");
    db.sync();
}

TEST_F(DbTest, AnExceptionRollsEverythingBack) {
    Db db(path_);
    EXPECT_THROW(db.transact([&](Db &t) {
        t.prepare("INSERT INTO meta(key, value) VALUES('x', 'y')").run();
        throw Error(ErrorClass::kInternal, "stop");
    }),
                 Error);
    EXPECT_EQ(get(db, "x"), "");
}

TEST_F(DbTest, ErrorsTellConflictFromUse) {
    Db db(path_);
    put(db, "a", "1");
    auto class_of = [&](const char *sql) {
        try {
            db.transact([&](Db &t) { t.prepare(sql).run(); });
        } catch (const Error &e) {
            return e.error_class();
        }
        return ErrorClass::kInternal;
    };
    EXPECT_EQ(class_of("INSERT INTO meta(key, value) VALUES('a', '2')"), ErrorClass::kAlreadyExists);
    db.transact([](Db &t) {
        t.prepare("INSERT INTO layer(id, driver, state, created) VALUES('1', 'vfs', 'ready', 0)").run();
        t.prepare("INSERT INTO layer(id, driver, state, parent, created) VALUES('2', 'vfs', 'ready', '1', 0)")
            .run();
    });
    EXPECT_EQ(class_of("DELETE FROM layer WHERE id = '1'"), ErrorClass::kFailedPrecondition);
}

TEST_F(DbTest, TransactionsDoNotNest) {
    Db db(path_);
    EXPECT_THROW(db.transact([&](Db &t) { t.transact([](Db &) {}); }), Error);
    EXPECT_THROW(db.prepare("SELECT 1"), Error);
    put(db, "still", "works");
    EXPECT_EQ(get(db, "still"), "works");
}

TEST_F(DbTest, ANewerSchemaIsRefusedWithAWayOut) {
    { Db db(path_); }
    {
        Db db(path_);
        db.transact([](Db &t) { t.prepare("PRAGMA user_version=99").run(); });
    }
    try {
        Db db(path_);
        FAIL() << "must refuse";
    } catch (const Error &e) {
        EXPECT_EQ(e.error_class(), ErrorClass::kFailedPrecondition);
        EXPECT_FALSE(e.hint().empty());
    }
}

TEST_F(DbTest, AKilledWriterLosesNoCommittedTransaction) {
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        Db db(path_);
        for (int i = 0; i < 50; ++i)
            put(db, "k" + std::to_string(i), "v");
        if (::write(ready[1], "x", 1) != 1) _exit(1);
        db.transact([](Db &t) {
            t.prepare("INSERT INTO meta(key, value) VALUES('half', 'x')").run();
            ::kill(::getpid(), SIGKILL);
        });
        _exit(0);
    }
    char byte = 0;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    Db db(path_);
    for (int i = 0; i < 50; ++i)
        EXPECT_EQ(get(db, "k" + std::to_string(i)), "v");
    EXPECT_EQ(get(db, "half"), "");
    ::close(ready[0]);
    ::close(ready[1]);
}

TEST_F(DbTest, ATextFileIsNoDatabase) {
    write_file_atomically(path_, std::string(4096, 'z'), 0600, false);
    EXPECT_THROW(Db db(path_), Error);
}

} // namespace
} // namespace gantry
