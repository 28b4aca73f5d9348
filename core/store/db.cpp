#include "core/store/db.h"

#include "core/base/log.h"

#include <gantry/error.hpp>

#include <mutex>
#include <sqlite3.h>
#include <string>
#include <thread>
#include <unordered_map>

namespace gantry {

struct Db::Impl {
    sqlite3 *connection = nullptr;
    std::string path;
    std::recursive_mutex mutex;
    bool in_transaction = false;
    std::unordered_map<std::string, sqlite3_stmt *> idle; // prepared and not in use, by SQL text

    [[noreturn]] void fail(const std::string &doing) const {
        const int code = sqlite3_extended_errcode(connection);
        const std::string message = doing + ": " + sqlite3_errmsg(connection);
        switch (code & 0xff) {
        case SQLITE_CONSTRAINT:
            throw Error(code == SQLITE_CONSTRAINT_FOREIGNKEY || code == SQLITE_CONSTRAINT_TRIGGER
                            ? ErrorClass::kFailedPrecondition
                            : ErrorClass::kAlreadyExists,
                        message);
        case SQLITE_FULL: throw Error(ErrorClass::kNoSpace, message, "free some disk space");
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB: throw Error(ErrorClass::kDataLoss, message);
        case SQLITE_BUSY:
        case SQLITE_LOCKED: throw Error(ErrorClass::kUnavailable, message);
        case SQLITE_READONLY:
        case SQLITE_PERM: throw Error(ErrorClass::kPermissionDenied, message);
        default: throw Error(ErrorClass::kInternal, message);
        }
    }

    void exec(const char *sql, const std::string &doing) const {
        if (sqlite3_exec(connection, sql, nullptr, nullptr, nullptr) != SQLITE_OK) fail(doing);
    }

    int user_version() const {
        sqlite3_stmt *s = nullptr;
        if (sqlite3_prepare_v2(connection, "PRAGMA user_version", -1, &s, nullptr) != SQLITE_OK ||
            sqlite3_step(s) != SQLITE_ROW) {
            sqlite3_finalize(s);
            fail("read schema version of " + path);
        }
        const int version = sqlite3_column_int(s, 0);
        sqlite3_finalize(s);
        return version;
    }
};

Db::Db(const std::string &path) : impl_(std::make_unique<Impl>()) {
    Impl &db = *impl_;
    db.path = path;
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW;
    if (sqlite3_open_v2(path.c_str(), &db.connection, flags, nullptr) != SQLITE_OK) {
        const std::string why = db.connection ? sqlite3_errmsg(db.connection) : "out of memory";
        sqlite3_close(db.connection);
        throw Error(ErrorClass::kInternal, "open database " + path + ": " + why);
    }
    try {
        sqlite3_extended_result_codes(db.connection, 1);
        sqlite3_busy_timeout(db.connection, 5000);
        // A small cache: the whole database is a few hundred KiB and the page cache holds it.
        db.exec("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;"
                "PRAGMA cache_size=-512; PRAGMA temp_store=MEMORY;",
                "set up database " + path);
        const int version = db.user_version();
        if (version > kSchemaStepCount)
            throw Error(ErrorClass::kFailedPrecondition,
                        "open database " + path + ": it was written by a newer gantry (schema " +
                            std::to_string(version) + ", this one knows " + std::to_string(kSchemaStepCount) +
                            ")",
                        "install the newer gantry again, or use another root");
        for (int step = version; step < kSchemaStepCount; ++step) {
            const std::string sql = "BEGIN IMMEDIATE;" + std::string(kSchemaSteps[step]) +
                                    "PRAGMA user_version=" + std::to_string(step + 1) + ";COMMIT;";
            db.exec(sql.c_str(), "write schema of " + path);
        }
    } catch (...) {
        sqlite3_close(db.connection);
        throw;
    }
}

Db::~Db() {
    for (auto &[key, statement] : impl_->idle)
        sqlite3_finalize(statement);
    sqlite3_close(impl_->connection);
}

namespace {
thread_local int t_transactions = 0;
struct Within {
    Within() { ++t_transactions; }
    ~Within() { --t_transactions; }
    Within(const Within &) = delete;
};
} // namespace

bool Db::in_transaction() noexcept { return t_transactions != 0; }

void Db::transact(const std::function<void(Db &)> &work) {
    Impl &db = *impl_;
    const std::lock_guard lock(db.mutex);
    if (db.in_transaction) throw Error(ErrorClass::kInternal, "begin transaction: transactions do not nest");
    db.exec("BEGIN IMMEDIATE", "begin transaction in " + db.path);
    db.in_transaction = true;
    const Within within;
    try {
        work(*this);
        db.exec("COMMIT", "commit transaction in " + db.path);
    } catch (...) {
        sqlite3_exec(db.connection, "ROLLBACK", nullptr, nullptr, nullptr);
        db.in_transaction = false;
        throw;
    }
    db.in_transaction = false;
}

Statement Db::prepare(std::string_view sql) {
    Impl &db = *impl_;
    if (!db.in_transaction) throw Error(ErrorClass::kInternal, "prepare statement: outside of a transaction");
    std::string key(sql);
    if (auto found = db.idle.find(key); found != db.idle.end()) {
        sqlite3_stmt *raw = found->second;
        db.idle.erase(found);
        return Statement(this, raw, std::move(key));
    }
    sqlite3_stmt *raw = nullptr;
    if (sqlite3_prepare_v3(db.connection, sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT,
                           &raw, nullptr) != SQLITE_OK)
        db.fail("prepare statement");
    return Statement(this, raw, std::move(key));
}

int64_t Db::last_row_id() const { return sqlite3_last_insert_rowid(impl_->connection); }
int64_t Db::changes() const { return sqlite3_changes64(impl_->connection); }

void Db::sync() {
    Impl &db = *impl_;
    const std::lock_guard lock(db.mutex);
    // A checkpoint fsyncs the log before it copies it; FULL waits for nobody since we are the only one.
    if (sqlite3_wal_checkpoint_v2(db.connection, nullptr, SQLITE_CHECKPOINT_FULL, nullptr, nullptr) !=
        SQLITE_OK)
        db.fail("sync database " + db.path);
}

Statement::Statement(Db *db, sqlite3_stmt *raw, std::string key) : db_(db), raw_(raw), key_(std::move(key)) {}

Statement::Statement(Statement &&other) noexcept
    : db_(other.db_), raw_(other.raw_), key_(std::move(other.key_)) {
    other.raw_ = nullptr;
}

Statement::~Statement() {
    if (!raw_) return;
    sqlite3_reset(raw_);
    sqlite3_clear_bindings(raw_);
    try {
        if (!db_->impl_->idle.emplace(std::move(key_), raw_).second) sqlite3_finalize(raw_);
    } catch (...) {
        sqlite3_finalize(raw_);
    }
}

Statement &Statement::bind(int index, int64_t value) {
    if (sqlite3_bind_int64(raw_, index, value) != SQLITE_OK) db_->impl_->fail("bind value");
    return *this;
}
Statement &Statement::bind(int index, std::string_view text) {
    if (sqlite3_bind_text64(raw_, index, text.data() ? text.data() : "", text.size(), SQLITE_TRANSIENT,
                            SQLITE_UTF8) != SQLITE_OK)
        db_->impl_->fail("bind text");
    return *this;
}
Statement &Statement::bind_blob(int index, std::string_view bytes) {
    if (sqlite3_bind_blob64(raw_, index, bytes.data() ? bytes.data() : "", bytes.size(), SQLITE_TRANSIENT) !=
        SQLITE_OK)
        db_->impl_->fail("bind bytes");
    return *this;
}
Statement &Statement::bind_null(int index) {
    if (sqlite3_bind_null(raw_, index) != SQLITE_OK) db_->impl_->fail("bind null");
    return *this;
}

bool Statement::step() {
    const int code = sqlite3_step(raw_);
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    db_->impl_->fail("execute statement");
}

int64_t Statement::integer(int column) const { return sqlite3_column_int64(raw_, column); }
std::string Statement::text(int column) const {
    const void *data = sqlite3_column_blob(raw_, column);
    return data ? std::string(static_cast<const char *>(data),
                              static_cast<size_t>(sqlite3_column_bytes(raw_, column)))
                : std::string();
}
bool Statement::is_null(int column) const { return sqlite3_column_type(raw_, column) == SQLITE_NULL; }

} // namespace gantry
