// The conformance kit: every promise of <gantry/*.h> as a case that can fail, for any driver.
//
// A case runs in a process, a mount namespace and a directory of its own, against an instance made by the
// very host that the engine uses, so a plugin that hangs, crashes, or leaves something behind fails that one
// case and the rest goes on. Cases ask for capabilities, never for a driver's name.
#pragma once

#include <gantry/abi.h>

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace gantry::kit {

/// The contract was broken: one sentence that says what was expected and what came.
struct Failed : std::runtime_error {
    using std::runtime_error::runtime_error;
};
/// The case does not apply to this driver or machine.
struct Skipped : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline void require(bool held, const std::string &otherwise) {
    if (!held) throw Failed(otherwise);
}

/// What is judged.
struct Subject {
    const struct gantry_plugin_entry *entry = nullptr;
    std::string file; // "" for one that is linked in
    std::vector<std::pair<std::string, std::string>> options;
    std::string reference; // an image that a registry driver can reach, or ""
};

struct Case {
    const char *name;
    const char *promise; // of the contract, one line
    int kind;            // gantry_kind, 0: every driver
    bool needs_root;
    void (*run)(const Subject &subject, const std::string &dir);
    int limit_s = 60;
};

std::vector<Case> common_cases();
std::vector<Case> storage_cases();
std::vector<Case> storage_tree_cases();
std::vector<Case> storage_kill_cases();
std::vector<Case> network_cases();
std::vector<Case> network_kill_cases();
std::vector<Case> registry_cases();

struct Result {
    enum State { kPassed, kSkipped, kFailed } state;
    std::string name, promise, message;
    double seconds = 0;
};

struct Plan {
    std::string filter;       // part of a case's name
    std::string dir = "/tmp"; // where cases make their directories
    std::string junit;        // file for the XML report, or ""
    int limit_s = 0;          // of each case; 0: its own
    bool list = false;        // names and promises only
    bool colour = false;
    bool verbose = false; // what the plugin logs
};

/// Runs every case that fits and prints the report. 0: conforms; 1: it does not; 2: nothing was judged.
int judge(const Subject &subject, const Plan &plan);

std::string as_junit(const Subject &subject, const std::vector<Result> &results);

} // namespace gantry::kit
