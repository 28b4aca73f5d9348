// [registry] drivers = ["layout", "peer", "oci"]: several sources behind one driver.
//
// What the next driver is asked after, and what not:
//  - NOT_FOUND, UNAVAILABLE, UNSUPPORTED and a driver's own timeout say "not from me": the next is asked.
//    DATA_LOSS says that a source is damaged, which costs a line in the log: the core verifies every byte,
//    so the next one can only be right or be refused.
//  - PERMISSION_DENIED ends the call, whoever says it. A driver in front may be there to refuse, and a chain
//    that went on after "you may not" would fetch it elsewhere. So a driver that merely lacks a login or a
//    file answers NOT_FOUND or UNAVAILABLE when others may stand behind it, and the driver whose registry
//    asks for a login stands last.
//  - Everything else (wrong arguments, no space, a bug, a cancelled call) ends the call too.
//
// Which driver means what: a tag means what the first driver with an answer says. Bytes have a digest, so a
// fetch goes on with the next driver at the byte reached. Pushes and logins belong to the first driver that
// has them at all: a failed push never goes elsewhere.
#pragma once

#include <gantry/registry.hpp>

#include <memory>
#include <string>
#include <vector>

namespace gantry {

struct ChainLink {
    std::string name; // of the driver
    std::shared_ptr<RegistryDriver> driver;
};

/// One RegistryDriver of several, at least one; of one it is that driver itself. Thread-safe as its links.
std::shared_ptr<RegistryDriver> make_registry_chain(std::vector<ChainLink> links);

} // namespace gantry
