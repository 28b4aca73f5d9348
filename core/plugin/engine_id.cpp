// Two engines beside each other on one machine must never take each other's bridges and cgroups for
// their own, so the name is random and lives as long as the database.
#include "core/plugin/engine_id.h"

#include "core/store/db.h"

#include <cerrno>
#include <gantry/error.hpp>
#include <sys/random.h>

namespace gantry {

std::string engine_id(Db &db) {
    std::string id;
    db.transact([&](Db &d) {
        id.clear();
        {
            Statement get = d.prepare("SELECT value FROM meta WHERE key='engine_id'");
            if (get.step()) id = get.text(0);
        }
        if (id.size() == 8 &&
            id.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789") == std::string::npos)
            return;
        unsigned char bytes[8];
        if (::getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
            throw Error::from_errno(errno, "make engine id");
        static constexpr char kLetters[] = "abcdefghijklmnopqrstuvwxyz012345";
        id.clear();
        for (int i = 0; i < 8; ++i)
            id += i == 0 ? kLetters[bytes[i] % 26] : kLetters[bytes[i] % 32];
        Statement put = d.prepare("INSERT OR REPLACE INTO meta(key,value) VALUES('engine_id',?)");
        put.bind(1, id);
        put.run();
    });
    return id;
}

} // namespace gantry
