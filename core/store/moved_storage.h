// Which storage driver a move made the engine's own: written by the move in the transaction that turns
// everything over, read when the driver is chosen.
#pragma once

#include <string>

namespace gantry {

class Db;

struct MovedStorage {
    std::string from, to; // "" when nothing was ever moved
};
MovedStorage moved_storage(Db &db);
/// Within a transaction.
void record_move(Db &transaction, const MovedStorage &move);

} // namespace gantry
