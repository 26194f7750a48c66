/* OpenVINO's operators vimzoo::ScanPaths, CausalConv1d, Depthwise and Norm: our kernels inside an OpenVINO model.
 *
 * The library that `vimzoo.openvino_extension` builds of this file holds the operators for IR files and their translation
 * from ONNX. Activations are dense; where an operator reads a part of the channels of a wider tensor, `first` is its first.
 */
#include <algorithm>
#include <cstring>
#include <new>

#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/convert.hpp>
#include <openvino/op/op.hpp>
#include <openvino/op/transpose.hpp>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include "../selective_scan/kernel_calls.h"

namespace {

using Nodes = ov::OutputVector;
using Tensors = ov::TensorVector;
using Given = ov::frontend::NodeContext;

int64_t number_of(const ov::Tensor &tensor) { /* the kernels' number of its dtype; -1 for what they do not take */
    const auto type = tensor.get_element_type();
    return type == ov::element::f32 ? 0 : type == ov::element::bf16 ? 1 : type == ov::element::f16 ? 2 : -1;
}
int64_t axis(const ov::Tensor &tensor, size_t i) { return int64_t(tensor.get_shape()[i]); }
int64_t last_axis(const ov::Tensor &tensor) { return int64_t(tensor.get_shape().back()); }
const char *data_of(const ov::Tensor &tensor, int64_t first = 0) {
    return (const char *)tensor.data() + first * int64_t(tensor.get_element_type().size());
}
const float *floats_of(const Tensors &inputs, size_t i) { return i < inputs.size() ? inputs[i].data<const float>() : nullptr; }
bool are_floats(const Tensors &inputs, size_t begin, size_t end) {
    for (size_t i = begin; i < std::min(end, inputs.size()); i++)
        if (inputs[i].get_element_type() != ov::element::f32) return false;
    return true;
}
int64_t whole_number(const ov::Tensor &tensor) { /* OpenVINO may have narrowed it */
    return tensor.get_element_type() == ov::element::i32 ? *tensor.data<const int32_t>() : *tensor.data<const int64_t>();
}

bool is_given(const Given &node, size_t i) {
    return i < node.get_input_size() && std::strcmp(node.get_input(int(i)).get_node()->get_type_name(), "NullNode") != 0;
}
int64_t number(const Given &node, const char *name) { return node.get_attribute<int64_t>(name, 0); }
/* Inputs of a node of an ONNX file up to the first that is missing. */
Nodes inputs_of(const Given &node) {
    Nodes inputs;
    for (size_t i = 0; is_given(node, i); i++) inputs.push_back(node.get_input(int(i)));
    return inputs;
}

/* An operator with settings. `Operator` says what is its own: its shape, how it is computed, how it is read from ONNX. */
template <class Operator, class Settings> class Kernel : public ov::op::Op {
public:
    Kernel() = default;
    Kernel(const Nodes &inputs, const Settings &settings) : Op(inputs), settings(settings) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        std::vector<ov::PartialShape> shapes;
        for (size_t i = 0; i < get_input_size(); i++) shapes.push_back(get_input_partial_shape(i));
        for (const auto &shape : shapes) OPENVINO_ASSERT(shape.rank().is_static(), get_type_name(), ": expected known ranks");
        set_output_type(0, get_input_element_type(0), Operator::shape(shapes, settings));
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const Nodes &inputs) const override {
        return std::make_shared<Operator>(inputs, settings);
    }

    bool visit_attributes(ov::AttributeVisitor &visitor) override {
        settings.visit(visitor);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(Tensors &outputs, const Tensors &inputs) const override {
        if (number_of(inputs[0]) < 0) return false;
        const vimzoo::Borrowed borrowed(tbb_loop, nullptr);
        return Operator::compute(outputs[0], inputs, settings);
    }

protected:
    Settings settings;

private:
    static void tbb_loop(void *, int64_t parts, vimzoo::Part part, void *loop) {
        tbb::parallel_for(int64_t(0), parts, [&](int64_t i) { part(loop, i); });
    }
};

/* On as many threads as OpenVINO has here, if there is work for them. */
template <class Arguments> bool run(int (*kernel)(const Arguments *), Arguments &call) {
    const auto shares = int64_t(vimzoo::nanoseconds(call) / vimzoo::RUNTIME_GRAIN);
    call.threads = std::max<int64_t>(1, std::min<int64_t>(tbb::this_task_arena::max_concurrency(), shares));
    if (!kernel(&call)) return true;
    vimzoo_forget_shortage();
    throw std::bad_alloc();
}

struct ScanSettings {
    std::vector<int64_t> codes;
    bool merge = true, skip = false, gate = false, table = false, planes = false;
    int64_t first = 0; /* of z */
    void visit(ov::AttributeVisitor &visitor) {
        visitor.on_attribute("codes", codes);
        visitor.on_attribute("merge", merge);
        visitor.on_attribute("skip", skip);
        visitor.on_attribute("gate", gate);
        visitor.on_attribute("table", table);
        visitor.on_attribute("planes", planes);
        visitor.on_attribute("first", first);
    }
};

/* Inputs: x (B, L, D) or (B, L, K, D), x_dbl (B, L, K or 1, R+2N), A (K or 1, D, N), dt_weight (K or 1, D, R), dt_bias (K or
 * 1, D), height, width, then those of D (K or 1, D), z (B, L, first + D or more) and table (K, T) that the attributes announce.
 * With planes, x is (K, B, L, D) and x_dbl (K, B, L, R+2N). Output: (B, L, D), or (B, K, T, D) without merge. */
class ScanPaths : public Kernel<ScanPaths, ScanSettings> {
public:
    OPENVINO_OP("ScanPaths", "vimzoo");
    using Kernel::Kernel;
    enum { FIRST_OPTIONAL = 7 };

    static ov::PartialShape shape(const std::vector<ov::PartialShape> &inputs, const ScanSettings &s) {
        const auto &x = inputs[0];
        const auto batch = x[s.planes], length = x[s.planes + 1], channels = x[x.size() - 1];
        if (s.merge) return {batch, length, channels};
        return {batch, int64_t(s.codes.size()), s.table ? inputs.back()[1] : length, channels};
    }

    static bool compute(ov::Tensor &out, const Tensors &inputs, const ScanSettings &s) {
        if (!are_floats(inputs, 2, 5)) return false;
        const auto &x = inputs[0], &rows = inputs[1];
        const int64_t batch = axis(x, s.planes), length = axis(x, s.planes + 1), channels = last_axis(x);
        const int64_t steps = s.table ? axis(inputs.back(), 1) : length, each = s.planes ? 0 : 2;
        const vimzoo::Sizes sizes{
            batch, length, x.get_shape().size() == 4 ? axis(x, each) : 1, channels, axis(rows, each), last_axis(rows),
            axis(inputs[2], 2), axis(inputs[3], 2), steps, whole_number(inputs[5]), whole_number(inputs[6]), axis(inputs[2], 0),
            axis(inputs[3], 0), axis(inputs[4], 0), s.skip ? axis(inputs[FIRST_OPTIONAL], 0) : 1};
        auto call = vimzoo::scan_of(sizes, number_of(x), s.codes, s.merge, s.planes);
        call.x = data_of(x), call.x_dbl = data_of(rows);
        call.A = floats_of(inputs, 2), call.dt_weight = floats_of(inputs, 3), call.dt_bias = floats_of(inputs, 4);
        size_t next = FIRST_OPTIONAL;
        if (s.skip) call.D = floats_of(inputs, next++);
        if (s.gate) {
            call.z = data_of(inputs[next], s.first);
            call.z_l = last_axis(inputs[next++]), call.z_b = length * call.z_l;
        }
        if (s.table) call.table = inputs[next].data<const int32_t>();
        if (s.merge) out.set_shape({size_t(batch), size_t(length), size_t(channels)});
        else out.set_shape({size_t(batch), s.codes.size(), size_t(steps), size_t(channels)});
        call.out = (char *)out.data();
        return run(vimzoo_scan_paths_forward, call);
    }

    /* Rates (K, N, D) and dt_weight (K, R, D) have the channels last in ONNX files. */
    static Nodes translate(const Given &node) {
        const auto order = ov::op::v0::Constant::create(ov::element::i64, {3}, {0, 2, 1});
        Nodes inputs;
        for (size_t i = 0; i < FIRST_OPTIONAL; i++) inputs.push_back(node.get_input(int(i)));
        for (const size_t i : {2, 3}) inputs[i] = std::make_shared<ov::op::v1::Transpose>(inputs[i], order);
        ScanSettings s{node.get_attribute<std::vector<int64_t>>("codes"), number(node, "merge") != 0, is_given(node, 7),
                       is_given(node, 8), is_given(node, 9), number(node, "planes") != 0, number(node, "first")};
        if (s.skip) inputs.push_back(node.get_input(7));
        if (s.gate) inputs.push_back(node.get_input(8));
        if (s.table) inputs.push_back(std::make_shared<ov::op::v0::Convert>(node.get_input(9), ov::element::i32));
        return std::make_shared<ScanPaths>(inputs, s)->outputs();
    }
};

struct ConvolutionSettings {
    std::vector<int64_t> reverse; /* of a causal one: each direction's */
    bool silu = false;
    int64_t first = 0; /* of x */
    int64_t dilation = 1;
    void visit(ov::AttributeVisitor &visitor) {
        visitor.on_attribute("reverse", reverse);
        visitor.on_attribute("silu", silu);
        visitor.on_attribute("first", first);
        visitor.on_attribute("dilation", dilation);
    }
};

/* Inputs: x (B, L, first + D or more), weight (K, D, W), bias (K, D) or none. Output: (K, B, L, D). */
class CausalConv1d : public Kernel<CausalConv1d, ConvolutionSettings> {
public:
    OPENVINO_OP("CausalConv1d", "vimzoo");
    using Kernel::Kernel;

    static ov::PartialShape shape(const std::vector<ov::PartialShape> &inputs, const ConvolutionSettings &s) {
        return {int64_t(s.reverse.size()), inputs[0][0], inputs[0][1], inputs[1][1]};
    }

    static bool compute(ov::Tensor &out, const Tensors &inputs, const ConvolutionSettings &s) {
        if (!are_floats(inputs, 1, 3)) return false;
        const auto &x = inputs[0];
        auto call = vimzoo::zeroed<causal_conv1d_args>();
        call.batch = axis(x, 0), call.length = axis(x, 1), call.channels = axis(inputs[1], 1), call.taps = axis(inputs[1], 2);
        call.directions = int64_t(s.reverse.size()), call.reverse = s.reverse.data(), call.silu = s.silu;
        call.dtype = number_of(x), call.x = data_of(x, s.first), call.x_l = last_axis(x), call.x_b = call.length * call.x_l;
        call.weight = floats_of(inputs, 1), call.bias = floats_of(inputs, 2);
        out.set_shape({s.reverse.size(), size_t(call.batch), size_t(call.length), size_t(call.channels)});
        call.out = (char *)out.data();
        return run(vimzoo_causal_conv1d_forward, call);
    }

    static Nodes translate(const Given &node) {
        const ConvolutionSettings s{node.get_attribute<std::vector<int64_t>>("reverse"), number(node, "silu") != 0,
                                    number(node, "first")};
        return std::make_shared<CausalConv1d>(inputs_of(node), s)->outputs();
    }
};

/* 3 x 3 with zeros beyond the edge. Inputs: x (B, H, W, first + C or more), weight (C, 1, 3, 3), bias (C) or none. Output:
 * (B, H, W, C). */
class Depthwise : public Kernel<Depthwise, ConvolutionSettings> {
public:
    OPENVINO_OP("Depthwise", "vimzoo");
    using Kernel::Kernel;

    static ov::PartialShape shape(const std::vector<ov::PartialShape> &inputs, const ConvolutionSettings &) {
        return {inputs[0][0], inputs[0][1], inputs[0][2], inputs[1][0]};
    }

    static bool compute(ov::Tensor &out, const Tensors &inputs, const ConvolutionSettings &s) {
        if (!are_floats(inputs, 1, 3)) return false;
        const auto &x = inputs[0];
        auto call = vimzoo::zeroed<depthwise_args>();
        call.batch = axis(x, 0), call.height = axis(x, 1), call.width = axis(x, 2), call.channels = axis(inputs[1], 0);
        call.dilation = s.dilation, call.silu = s.silu, call.dtype = number_of(x), call.x = data_of(x, s.first);
        call.x_w = last_axis(x), call.x_h = call.width * call.x_w, call.x_b = call.height * call.x_h;
        call.weight = floats_of(inputs, 1), call.bias = floats_of(inputs, 2);
        out.set_shape({size_t(call.batch), size_t(call.height), size_t(call.width), size_t(call.channels)});
        call.out = (char *)out.data();
        return run(vimzoo_depthwise_forward, call);
    }

    static Nodes translate(const Given &node) {
        const ConvolutionSettings s{{}, number(node, "silu") != 0, number(node, "first"), number(node, "dilation")};
        return std::make_shared<Depthwise>(inputs_of(node), s)->outputs();
    }
};

struct NormSettings {
    double eps = 1e-5;
    bool bias = false, gate = false;
    int64_t first = 0; /* of the gate */
    void visit(ov::AttributeVisitor &visitor) {
        visitor.on_attribute("eps", eps);
        visitor.on_attribute("bias", bias);
        visitor.on_attribute("gate", gate);
        visitor.on_attribute("first", first);
    }
};

/* LayerNorm over the last axis, multiplied by silu(gate). Inputs: x (..., C), weight (C), then those of bias (C) and gate
 * (..., first + C or more) that the attributes announce. Output: as x. */
class Norm : public Kernel<Norm, NormSettings> {
public:
    OPENVINO_OP("Norm", "vimzoo");
    using Kernel::Kernel;

    static ov::PartialShape shape(const std::vector<ov::PartialShape> &inputs, const NormSettings &) { return inputs[0]; }

    static bool compute(ov::Tensor &out, const Tensors &inputs, const NormSettings &s) {
        const auto &x = inputs[0];
        if (!are_floats(inputs, 1, 2 + s.bias)) return false;
        out.set_shape(x.get_shape());
        auto call = vimzoo::zeroed<add_norm_args>();
        call.channels = last_axis(x), call.rows = call.channels ? int64_t(x.get_size()) / call.channels : 0;
        call.x_dtype = call.residual_dtype = call.kept_dtype = number_of(x), call.eps = s.eps;
        call.x = data_of(x), call.weight = floats_of(inputs, 1), call.out = (char *)out.data();
        if (s.bias) call.bias = floats_of(inputs, 2);
        if (s.gate) call.gate = data_of(inputs.back(), s.first), call.gate_row = last_axis(inputs.back());
        return run(vimzoo_add_norm_forward, call);
    }

    static Nodes translate(const Given &node) {
        Nodes inputs{node.get_input(0), node.get_input(1)};
        const NormSettings s{node.get_attribute<float>("eps"), is_given(node, 2), is_given(node, 3), number(node, "first")};
        if (s.bias) inputs.push_back(node.get_input(2));
        if (s.gate) inputs.push_back(node.get_input(3));
        return std::make_shared<Norm>(inputs, s)->outputs();
    }
};

template <class Operator> void add(std::vector<ov::Extension::Ptr> &all, const char *name) {
    all.push_back(std::make_shared<ov::OpExtension<Operator>>());
    all.push_back(std::make_shared<ov::frontend::onnx::ConversionExtension>(name, "vimzoo", Operator::translate));
}

std::vector<ov::Extension::Ptr> operators() {
    std::vector<ov::Extension::Ptr> all;
    add<ScanPaths>(all, "ScanPaths");
    add<CausalConv1d>(all, "CausalConv1d");
    add<Depthwise>(all, "Depthwise");
    add<Norm>(all, "Norm");
    return all;
}

}  // namespace

OPENVINO_CREATE_EXTENSIONS(operators());
