// What every engine of a site knows. From the file's bytes comes the key of TLS 1.3's external PSK: who has
// it belongs to the site, and there are no certificates to make, renew or trust.
#pragma once

#include <string>

namespace gantry::peer {

/// 32 bytes of key. Refuses files that others than their owner can read, that belong to a stranger, or that
/// hold less than 32 bytes: one side of a handshake is enough to try out short secrets at leisure.
std::string read_key(const std::string &secret_file);

} // namespace gantry::peer
