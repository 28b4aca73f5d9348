// The engine's one database: SQLite in WAL mode, one writer process, many threads.
//
// Kill -9 never loses a committed transaction. Power loss may lose the last ones but never tears
// the file (synchronous=NORMAL); sync() makes everything committed so far durable and is called
// where an image layer becomes visible with `durable = true`.
//
// Rule: no transaction and no lock of this class is held while a driver is called.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

struct sqlite3_stmt;

namespace gantry {

class Db;

/// A prepared statement in use; bind from index 1, read columns from 0. Returned to the cache on
/// destruction. Not thread-safe; lives within the thread and the Db access that made it.
class Statement {
  public:
    Statement(Statement &&) noexcept;
    ~Statement();

    Statement &bind(int index, int64_t value);
    Statement &bind(int index, std::string_view text);
    Statement &bind_blob(int index, std::string_view bytes);
    Statement &bind_null(int index);
    /// bind_all("a", 3, ...) from index 1 on.
    template <typename... T> Statement &bind_all(const T &...values) {
        int i = 0;
        (bind(++i, values), ...);
        return *this;
    }

    /// True when a row is there. Throws kAlreadyExists on a UNIQUE conflict, kFailedPrecondition on a
    /// foreign key that is in use, kNoSpace on a full disk, kDataLoss on corruption.
    bool step();
    /// step() for statements without rows.
    void run() { step(); }

    int64_t integer(int column) const;
    std::string text(int column) const; // also blobs
    bool is_null(int column) const;

  private:
    friend class Db;
    Statement(Db *db, sqlite3_stmt *raw, std::string key);
    Db *db_;
    sqlite3_stmt *raw_;
    std::string key_;
};

/// All access is through transact(): the callback runs with the connection's lock held, inside BEGIN
/// IMMEDIATE ... COMMIT; an exception rolls back. Callbacks are short, call no driver and do not nest.
class Db {
  public:
    /// Opens or makes the database, checks its integrity after an unclean stop, brings the schema up
    /// to date. A newer schema is kFailedPrecondition.
    explicit Db(const std::string &path);
    ~Db();
    Db(const Db &) = delete;
    Db &operator=(const Db &) = delete;

    void transact(const std::function<void(Db &)> &work);
    /// Whether this thread is within transact(), of any database: then it may call no driver.
    static bool in_transaction() noexcept;
    /// Only within transact(). `sql` is cached by its text: use literals.
    Statement prepare(std::string_view sql);
    int64_t last_row_id() const;
    int64_t changes() const;
    void sync();

  private:
    friend class Statement;
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// Tables of all modules, in schema.cpp. Version n+1 is reached from n by appended statements only.
extern const char *const kSchemaSteps[];
extern const int kSchemaStepCount;

} // namespace gantry
