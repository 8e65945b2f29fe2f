package report

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/go-analyze/charts"
)

// Plot is a picture of a section: lines or bars.
type Plot struct {
	Name  string // of the file
	Title string // with the unit
	X     string // unit of the labels of the x axis
	Ticks []string
	Lines []Line
	Bars  []Bar
}

// Line has a value for each tick.
type Line struct {
	Name   string
	Values []float64
}

// Bar is one figure.
type Bar struct {
	Name  string
	Value float64
	Label string // beside it
}

func (p *Plot) path() string { return "plots/" + p.Name + ".svg" }

// Save draws the plot, as SVG, in dir.
func (p *Plot) Save(dir string) error {
	options := charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: 720, Height: 400}
	draw := p.lines
	if len(p.Bars) > 0 {
		options.Height, draw = 90+40*len(p.Bars), p.bars
	}
	painter := charts.NewPainter(options)
	if err := draw(painter); err != nil {
		return fmt.Errorf("plot %s: %w", p.Name, err)
	}
	svg, err := painter.Bytes()
	if err != nil {
		return fmt.Errorf("plot %s: %w", p.Name, err)
	}
	path := filepath.Join(dir, filepath.FromSlash(p.path()))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(svg, '\n'), 0o644)
}

func (p *Plot) lines(painter *charts.Painter) error {
	var values [][]float64
	var names []string
	for _, line := range p.Lines {
		values, names = append(values, line.Values), append(names, line.Name)
	}
	o := charts.NewLineChartOptionWithData(values)
	o.Theme = theme
	o.Title.Text = p.Title
	o.XAxis.Title, o.XAxis.Labels = p.X, p.Ticks
	o.YAxis[0].Min = charts.Ptr(0.0)
	o.ValueFormatter = func(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
	o.Legend.SeriesNames = names
	o.Legend.Offset = charts.OffsetStr{Top: "28"}
	o.Symbol.Shape = charts.SymbolCircle
	return painter.LineChart(o)
}

func (p *Plot) bars(painter *charts.Painter) error {
	var values []float64
	var names []string
	labels := map[float64]string{}                // the library passes only the value to its formatter
	for _, bar := range slices.Backward(p.Bars) { // the last bar is on top
		values, names = append(values, bar.Value), append(names, bar.Name+"\u00a0\u00a0\u00a0\u00a0")
		labels[bar.Value] = bar.Label
	}
	o := charts.NewBarChartOptionWithData([][]float64{values})
	o.Theme, o.Horizontal = theme, true
	o.Title.Text = p.Title
	o.CategoryAxis.Labels = names
	o.CategoryAxis.LabelFontStyle.FontSize = 9 // and space beside the names: readers' fonts are wider than the measured one
	o.ValueAxis[0].Show = charts.Ptr(false)    // the labels show the values
	o.ValueAxis[0].Min = charts.Ptr(0.0)
	o.ValueAxis[0].Max = charts.Ptr(2.1 * slices.Max(values)) // space for the labels
	o.SeriesList[0].Label.Show = charts.Ptr(true)
	o.SeriesList[0].Label.LabelFormatter = func(_ int, _ string, value float64) (string, *charts.LabelStyle) {
		return labels[value], nil
	}
	return painter.BarChart(o)
}

// theme has the colours of Okabe and Ito, which colour-blind readers can tell
// apart.
var theme = charts.GetTheme(charts.ThemeLight).WithSeriesColors([]charts.Color{
	{R: 0xd5, G: 0x5e, B: 0x00, A: 0xff}, {R: 0x00, G: 0x72, B: 0xb2, A: 0xff}, {R: 0x00, G: 0x9e, B: 0x73, A: 0xff},
	{R: 0xcc, G: 0x79, B: 0xa7, A: 0xff}, {R: 0xe6, G: 0x9f, B: 0x00, A: 0xff}, {R: 0x56, G: 0xb4, B: 0xe9, A: 0xff},
})
