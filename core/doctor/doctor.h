// `gantry doctor`: what this machine offers an engine, and for each gap what it costs and how to close it.
//
// An integrator asks this before the engine runs for the first time, so nothing here needs a running
// engine, a readable database or even a valid configuration; each of these is one of the subjects. Facts are
// probed by doing the thing (a mount in a private namespace, a cgroup that is removed again), never read
// off a version number, and nothing is left behind or changed.
#pragma once

#include <string>
#include <vector>

namespace gantry::doctor {

/// kError: the engine cannot run. kWarning: something that people rely on does not work. kNotice: worth
/// knowing, nothing breaks.
enum class Verdict { kOk, kNotice, kWarning, kError };

struct Finding {
    std::string area;    // "kernel", "cgroups", "files", "network", "plugins", "configuration", "engine"
    std::string subject; // "overlay with lowerdir+"
    Verdict verdict = Verdict::kOk;
    std::string found;  // what was seen, and what follows from it
    std::string remedy; // how to get it; "" when there is nothing to do
};

using Findings = std::vector<Finding>;

const char *word_of(Verdict verdict);

/// Each adds its findings and never throws for what it finds. Need root to be complete; without it what
/// could not be looked at says so.
void examine_kernel(Findings &out);
void examine_cgroups(const std::string &cgroup_parent, Findings &out);
void examine_files(const std::string &root, Findings &out);
struct NetworkQuestion {
    std::vector<std::string> subnets; // "10.88.0.0/16", as configured; empty: the driver chooses
    std::string bridge;               // the engine's own link, which is no conflict
};
void examine_network(const NetworkQuestion &question, Findings &out);
/// Configuration, plugins, helper programs, the engine's socket. Returns what the others need to know.
struct EngineFacts {
    std::string root = "/var/lib/gantry", cgroup_parent = "/gantry";
    NetworkQuestion network;
};
EngineFacts examine_engine(const std::string &config_file, Findings &out);

/// Aligned text; colour when asked for.
std::string as_text(const Findings &findings, bool colour);
/// {"ok":true,"findings":[{"area","subject","verdict","found","remedy"}]}
std::string as_json(const Findings &findings);

/// `[--config FILE] [--format text|json]`. Exit code 1 when a finding is an error.
int run(const std::vector<std::string> &args);

} // namespace gantry::doctor
