// Eight threads that begin together.
#pragma once

#include <barrier>
#include <functional>
#include <gtest/gtest.h>
#include <thread>
#include <vector>

namespace gantry::test {

constexpr int kCrowd = 8;

/// Runs work(0..kCrowd-1), each in its own thread; what one throws fails the test.
inline void crowd(const std::function<void(int)> &work) {
    std::barrier start(kCrowd);
    std::vector<std::jthread> threads;
    for (int i = 0; i < kCrowd; ++i)
        threads.emplace_back([&, i] {
            start.arrive_and_wait();
            try {
                work(i);
            } catch (const std::exception &e) {
                ADD_FAILURE() << "thread " << i << ": " << e.what();
            }
        });
}

} // namespace gantry::test
