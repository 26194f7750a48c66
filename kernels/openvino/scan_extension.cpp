/* OpenVINO's operator vimzoo::ScanPaths: the scan of scan_paths.c inside an OpenVINO model.
 *
 * The library that `vimzoo.openvino_extension` builds of this file holds the operator for IR files and its translation
 * from ONNX. Inputs: x (B, L, D) or (B, L, K, D), x_dbl (B, L, K or 1, R+2N), A (K or 1, D, N), dt_weight (K or 1, D, R),
 * dt_bias (K or 1, D), height, width, then those of D (K or 1, D), z (B, L, D) and table (K, T) that the attributes
 * announce. Output: (B, L, D), or (B, K, T, D) without merge.
 */
#include <cstring>

#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/convert.hpp>
#include <openvino/op/op.hpp>
#include <openvino/op/transpose.hpp>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include "../selective_scan/scan_call.h"

namespace {

enum { FIRST_OPTIONAL = 7 };

int64_t number(const ov::Tensor &tensor) { /* OpenVINO may have narrowed it */
    return tensor.get_element_type() == ov::element::i32 ? *tensor.data<const int32_t>() : *tensor.data<const int64_t>();
}

class ScanPaths : public ov::op::Op {
public:
    OPENVINO_OP("ScanPaths", "vimzoo");
    ScanPaths() = default;
    ScanPaths(const ov::OutputVector &inputs, std::vector<int64_t> codes, bool merge, bool skip, bool gate, bool table)
        : Op(inputs), codes(std::move(codes)), merge(merge), skip(skip), gate(gate), table(table) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        const auto x = get_input_partial_shape(0);
        OPENVINO_ASSERT(x.rank().is_static() && (x.size() == 3 || x.size() == 4), "ScanPaths: x has 3 or 4 axes");
        const auto directions = ov::Dimension(int64_t(codes.size()));
        ov::PartialShape y{x[0], x[1], x[x.size() - 1]};
        if (!merge) {
            const auto steps = table ? get_input_partial_shape(get_input_size() - 1) : ov::PartialShape{directions, x[1]};
            y = {x[0], directions, steps.rank().is_static() ? steps[1] : ov::Dimension(), x[x.size() - 1]};
        }
        set_output_type(0, get_input_element_type(0), y);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector &inputs) const override {
        return std::make_shared<ScanPaths>(inputs, codes, merge, skip, gate, table);
    }

    bool visit_attributes(ov::AttributeVisitor &visitor) override {
        visitor.on_attribute("codes", codes);
        visitor.on_attribute("merge", merge);
        visitor.on_attribute("skip", skip);
        visitor.on_attribute("gate", gate);
        visitor.on_attribute("table", table);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector &outputs, const ov::TensorVector &inputs) const override {
        scan_paths_args call;
        if (!describe(call, outputs, inputs)) return false;
        const int64_t threads = std::min<int64_t>(tbb::this_task_arena::max_concurrency(), vimzoo::most_threads(call));
        const int64_t parts = std::max<int64_t>(1, threads / call.batch);
        if (threads <= 1) {
            if (!vimzoo::scan(call)) throw std::bad_alloc();
            return true;
        }
        tbb::parallel_for(int64_t(0), call.batch * parts, [&](int64_t task) {
            if (!vimzoo::scan_image(call, task / parts, task % parts, parts)) throw std::bad_alloc();
        });
        return true;
    }

private:
    std::vector<int64_t> codes;
    bool merge = true, skip = false, gate = false, table = false;

    bool describe(scan_paths_args &call, ov::TensorVector &outputs, const ov::TensorVector &inputs) const {
        const auto x = inputs[0].get_shape(), rows = inputs[1].get_shape();
        const auto type = inputs[0].get_element_type();
        const int64_t dtype = type == ov::element::f32 ? 0 : type == ov::element::bf16 ? 1 : 2;
        if (dtype == 2 && type != ov::element::f16) return false;
        for (int i = 2; i < 5; i++)
            if (inputs[i].get_element_type() != ov::element::f32) return false;
        const auto first = [&](size_t i) { return int64_t(inputs[i].get_shape()[0]); };
        const int64_t length = x[1], steps = table ? inputs.back().get_shape()[1] : length;
        const vimzoo::Sizes sizes{
            int64_t(x[0]), length, x.size() == 4 ? int64_t(x[2]) : 1, int64_t(x.back()), int64_t(rows[2]), int64_t(rows[3]),
            int64_t(inputs[2].get_shape()[2]), int64_t(inputs[3].get_shape()[2]), steps, number(inputs[5]), number(inputs[6]),
            first(2), first(3), first(4), skip ? first(FIRST_OPTIONAL) : 1};
        call = vimzoo::call_of(sizes, dtype, codes, merge);
        call.x = (const char *)inputs[0].data(), call.x_dbl = (const char *)inputs[1].data();
        call.A = inputs[2].data<const float>(), call.dt_weight = inputs[3].data<const float>();
        call.dt_bias = inputs[4].data<const float>();
        size_t next = FIRST_OPTIONAL;
        if (skip) call.D = inputs[next++].data<const float>();
        if (gate) call.z = (const char *)inputs[next++].data();
        if (table) call.table = inputs[next].data<const int32_t>();
        if (merge) outputs[0].set_shape({x[0], x[1], x.back()});
        else outputs[0].set_shape({x[0], codes.size(), size_t(steps), x.back()});
        call.out = (char *)outputs[0].data();
        return true;
    }
};

/* A node of an ONNX file, whose rates (K, N, D) and dt_weight (K, R, D) have the channels last. */
ov::OutputVector translate(const ov::frontend::NodeContext &node) {
    const auto given = [&](size_t i) {
        return i < node.get_input_size() && std::strcmp(node.get_input(int(i)).get_node()->get_type_name(), "NullNode") != 0;
    };
    const auto order = ov::op::v0::Constant::create(ov::element::i64, {3}, {0, 2, 1});
    ov::OutputVector inputs;
    for (size_t i = 0; i < FIRST_OPTIONAL; i++) {
        ov::Output<ov::Node> input = node.get_input(int(i));
        if (i == 2 || i == 3) input = std::make_shared<ov::op::v1::Transpose>(input, order);
        inputs.push_back(input);
    }
    const bool skip = given(7), gate = given(8), table = given(9);
    if (skip) inputs.push_back(node.get_input(7));
    if (gate) inputs.push_back(node.get_input(8));
    if (table) inputs.push_back(std::make_shared<ov::op::v0::Convert>(node.get_input(9), ov::element::i32));
    const auto codes = node.get_attribute<std::vector<int64_t>>("codes");
    const bool merge = node.get_attribute<int64_t>("merge") != 0;
    return std::make_shared<ScanPaths>(inputs, codes, merge, skip, gate, table)->outputs();
}

}  // namespace

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>(
    {std::make_shared<ov::OpExtension<ScanPaths>>(),
     std::make_shared<ov::frontend::onnx::ConversionExtension>("ScanPaths", "vimzoo", translate)}));
