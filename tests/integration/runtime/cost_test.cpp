// What a start costs. The numbers are printed; the bounds are wide, they catch only a lost design point
// (a start that waits, a shim that grows).
#include "tests/integration/runtime/fixture.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

namespace gantry {
namespace {

double ms_since(std::chrono::steady_clock::time_point from) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - from).count();
}
double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

} // namespace

TEST_F(RuntimeTest, CostsOfAStart) {
    std::vector<double> cold, warm, down, exec_times;
    for (int i = 0; i < 15; i++) {
        auto s = spec({"sleep", "100"});
        auto begin = std::chrono::steady_clock::now();
        auto task = start(s, extras(), "cold" + std::to_string(i));
        cold.push_back(ms_since(begin));
        auto p = s;
        p.process.args = {"true"};
        begin = std::chrono::steady_clock::now();
        auto done = runtime->exec(*task, "e" + std::to_string(i), p, {}, {});
        exec_times.push_back(ms_since(begin));
        done->wait(5000);
        begin = std::chrono::steady_clock::now();
        task->kill(SIGKILL);
        task->wait(5000);
        down.push_back(ms_since(begin));
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        auto sandbox = runtime->prepare("warm" + std::to_string(i), s.namespaces);
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        begin = std::chrono::steady_clock::now();
        task = runtime->start(std::move(sandbox), s, extras(), {});
        warm.push_back(ms_since(begin));
        task->kill(SIGKILL);
        task->wait(5000);
    }
    printf("start cold %.1f ms, warm %.1f ms, exec %.1f ms, kill to exit %.1f ms (medians of 15)\n",
           median(cold), median(warm), median(exec_times), median(down));
}

TEST_F(RuntimeTest, CostsOfThirtyAtOnce) {
    std::vector<std::shared_ptr<Task>> tasks(30);
    std::vector<std::thread> threads;
    for (int i = 0; i < 30; i++) {
        make_directories(base + "/u" + std::to_string(i), 0755);
        make_directories(base + "/w" + std::to_string(i), 0755);
    }
    auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 30; i++)
        threads.emplace_back([&, i] {
            auto e = extras();
            e.rootfs[0].options = {"lowerdir=" + base + "/root",
                                   "upperdir=" + base + "/u" + std::to_string(i),
                                   "workdir=" + base + "/w" + std::to_string(i)};
            e.log_path = e.exit_path = "";
            tasks[size_t(i)] = start(spec({"sleep", "100"}), e, "many" + std::to_string(i));
        });
    for (auto &thread : threads)
        thread.join();
    double all = ms_since(begin);
    size_t pss = 0, text = 0;
    for (auto &task : tasks) {
        std::ifstream rollup("/proc/" + std::to_string(task->shim_pid()) + "/smaps_rollup");
        for (std::string line; std::getline(rollup, line);) {
            if (line.starts_with("Pss:")) pss += std::stoul(line.substr(4));
            if (line.starts_with("Private_Dirty:")) text += std::stoul(line.substr(14));
        }
    }
    printf("30 at once: %.0f ms; a shim: %zu KiB PSS, %zu KiB private\n", all, pss / 30, text / 30);
    EXPECT_LT(pss / 30, 400u);
    for (auto &task : tasks)
        task->kill(SIGKILL);
    for (auto &task : tasks)
        EXPECT_TRUE(task->wait(10000));
}

} // namespace gantry
