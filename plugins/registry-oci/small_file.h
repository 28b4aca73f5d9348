// A bounded read of a configured file: passwords, credentials, certificates.
#pragma once

#include <gantry/error.hpp>

#include <fstream>
#include <string>
#include <system_error>

namespace gantry::oci {

/// Throws kFailedPrecondition "read FILE: ..." when it cannot be read or holds more than `limit` bytes.
inline std::string read_small_file(const std::string &path, size_t limit) {
    std::ifstream in(path, std::ios::binary);
    if (!in)
        throw Error(ErrorClass::kFailedPrecondition,
                    "read " + path + ": " + std::generic_category().message(errno), {}, errno);
    std::string out(limit + 1, 0);
    in.read(out.data(), static_cast<std::streamsize>(out.size()));
    out.resize(static_cast<size_t>(in.gcount()));
    if (in.bad()) throw Error(ErrorClass::kFailedPrecondition, "read " + path + ": input error");
    if (out.size() > limit)
        throw Error(ErrorClass::kFailedPrecondition,
                    "read " + path + ": larger than " + std::to_string(limit) + " bytes");
    return out;
}

} // namespace gantry::oci
