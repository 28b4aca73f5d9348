#include "core/store/moved_storage.h"

#include "core/store/db.h"

namespace gantry {

namespace {
constexpr char kFromKey[] = "storage.moved_from", kToKey[] = "storage.moved_to";
}

MovedStorage moved_storage(Db &db) {
    MovedStorage out;
    db.transact([&](Db &t) {
        const auto read = [&](const char *key) {
            auto s = t.prepare("SELECT value FROM meta WHERE key=?");
            s.bind(1, key);
            return s.step() ? s.text(0) : std::string();
        };
        out = {read(kFromKey), read(kToKey)};
    });
    return out;
}

void record_move(Db &transaction, const MovedStorage &move) {
    const auto write = [&](const char *key, const std::string &value) {
        transaction
            .prepare("INSERT INTO meta(key,value) VALUES(?,?) "
                     "ON CONFLICT(key) DO UPDATE SET value=excluded.value")
            .bind(1, key)
            .bind(2, value)
            .run();
    };
    write(kFromKey, move.from);
    write(kToKey, move.to);
}

} // namespace gantry
