// Health checks, as dockerd does them: a probe is an exec whose exit code judges, and its output is kept.
// The shim writes that output to a small rotated log, so that a probe needs no thread that reads, and one
// that floods costs no memory here. A probe that outlives its time is killed with everything it started.
#include "core/container/containers_impl.h"

#include "core/base/ids.h"
#include "core/base/log.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <unistd.h>

namespace gantry {

namespace {

constexpr int64_t kSecond = 1000000000;
constexpr int64_t kDefaultTime = 30 * kSecond, kDefaultStartInterval = 5 * kSecond;
constexpr size_t kKeptResults = 5, kKeptOutput = 4096;
constexpr uint64_t kOutputFile = 64u << 10;

bool has_probe(const ContainerConfig &config) {
    if (!config.healthcheck || config.healthcheck->test.size() < 2) return false;
    const std::string &kind = config.healthcheck->test[0];
    return kind == "CMD" || kind == "CMD-SHELL";
}

std::string take_output(const std::string &path) {
    std::string out;
    try {
        const CancelSource never;
        read_log(
            path, LogQuery(), never, -1, [] { return true; },
            [&](const LogRecord &line) {
                out += line.text;
                return out.size() <= kKeptOutput;
            });
    } catch (const Error &error) {
        out = error.message();
    }
    ::unlink(path.c_str());
    ::unlink((path + ".1").c_str());
    if (out.size() > kKeptOutput) out.resize(kKeptOutput), out += "...";
    return out;
}

/// One probe under way.
struct Probe {
    ExecRecord exec;
    HealthcheckConfig health;
    std::string log_path;
    int64_t start_ns = 0;
    std::atomic<bool> timed_out = false;
};

} // namespace

void Containers::Impl::begin_health(Record &record) {
    auto &state = record.state;
    state.health = has_probe(*record.config) ? "starting" : "";
    state.health_failures = 0;
    state.health_log.clear();
}

void Containers::Impl::schedule_health(const RecordPtr &record, uint64_t run) {
    int64_t interval;
    {
        std::lock_guard lock(record->mutex);
        if (!has_probe(*record->config) || record->run != run || !record->state.running) return;
        const auto &health = *record->config->healthcheck;
        interval = health.interval_ns ? health.interval_ns : kDefaultTime;
        if (record->state.health == "starting" &&
            wall_ns() - record->state.started_ns < health.start_period_ns)
            interval = health.start_interval_ns ? health.start_interval_ns
                                                : std::min(interval, kDefaultStartInterval);
    }
    jobs->post_after(interval / 1000000, [this, record, run] { probe_health(record, run); });
}

void Containers::Impl::judge_health(const RecordPtr &record, uint64_t run, HealthResult result,
                                    const HealthcheckConfig &health) {
    std::string news;
    {
        std::lock_guard lock(record->mutex);
        if (record->run != run || !record->state.running) return;
        auto &state = record->state;
        const std::string before = state.health;
        if (result.exit_code == 0) {
            state.health_failures = 0;
            state.health = "healthy";
        } else if (before != "starting" || result.start_ns - state.started_ns >= health.start_period_ns) {
            // Failures count only after the start period, unless it had been healthy within it.
            if (++state.health_failures >= (health.retries ? health.retries : 3)) state.health = "unhealthy";
        }
        state.health_log.push_back(std::move(result));
        if (state.health_log.size() > kKeptResults) state.health_log.erase(state.health_log.begin());
        if (state.health != before) news = state.health;
    }
    if (!news.empty()) publish(*record, "health_status: " + news);
    schedule_health(record, run);
}

void Containers::Impl::probe_health(const RecordPtr &record, uint64_t run) {
    auto probe = std::make_shared<Probe>();
    bool paused;
    {
        std::lock_guard lock(record->mutex);
        if (record->run != run || !record->state.running || !has_probe(*record->config)) return;
        probe->health = *record->config->healthcheck;
        paused = record->state.paused;
    }
    if (paused) return schedule_health(record, run);
    // The runtime ends what bears this name when the engine that waits for it is gone.
    probe->exec.info.id = "probe-" + new_id();
    auto &cmd = probe->exec.info.config.cmd;
    cmd.assign(probe->health.test.begin() + 1, probe->health.test.end());
    if (probe->health.test[0] == "CMD-SHELL") cmd.insert(cmd.begin(), {"/bin/sh", "-c"});
    probe->start_ns = wall_ns();
    probe->log_path = directory(record->id) + "/" + probe->exec.info.id + ".log";
    const int64_t timeout = probe->health.timeout_ns ? probe->health.timeout_ns : kDefaultTime;
    try {
        auto task = run_exec(
            record, probe->exec, [](Task &) {},
            [&](StartExtras &extras) {
                extras.log_path = probe->log_path;
                extras.log_max_size = kOutputFile;
                extras.log_max_files = 1;
            });
        // Its end comes through on_exit in either case, so the timer holds the task only weakly.
        jobs->post_after(timeout / 1000000, [weak = std::weak_ptr(task), probe] {
            auto task = weak.lock();
            if (!task || task->process_ended()) return;
            probe->timed_out = true;
            try {
                task->kill_group(9);
            } catch (const Error &) {
                // gone already: its exit is on its way
            }
        });
        task->on_exit([gate = gate, record, run, probe, timeout](const ExitStatus &status) {
            std::shared_lock lock(gate->mutex);
            if (!gate->impl) return;
            gate->impl->jobs->post([impl = gate->impl, record, run, probe, timeout, code = status.code] {
                HealthResult result{probe->start_ns, wall_ns(), code, take_output(probe->log_path)};
                ::unlink(probe->exec.exit_path.c_str());
                if (probe->timed_out) {
                    result.exit_code = -1;
                    result.output = "Health check exceeded timeout (" + std::to_string(timeout / 1000000) +
                                    "ms)" + (result.output.empty() ? "" : ": ") + result.output;
                }
                impl->judge_health(record, run, std::move(result), probe->health);
            });
        });
    } catch (const Error &error) {
        log_debug("health check of container {}: {}", record->id, error.message());
        judge_health(record, run, {probe->start_ns, wall_ns(), -1, error.message()}, probe->health);
    }
}

} // namespace gantry
