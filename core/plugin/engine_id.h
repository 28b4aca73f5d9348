// The engine's own name, part of the names of its kernel objects.
#pragma once

#include <string>

namespace gantry {

class Db;

/// Eight of [a-z0-9], made once and kept in the database. Begins with a letter.
std::string engine_id(Db &db);

} // namespace gantry
