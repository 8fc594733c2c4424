/** The globe behind the quiet pages: meridians, parallels, and one call crossing them. Decoration only. */
const LONGITUDES = [15, 30, 45, 60, 75].map((degrees) => 300 * Math.sin((degrees * Math.PI) / 180));
const LATITUDES = [-60, -40, -20, 0, 20, 40, 60].map((degrees) => {
  const angle = (degrees * Math.PI) / 180;
  return { y: 300 * Math.sin(angle), rx: 300 * Math.cos(angle) };
});
const POPS: [x: number, y: number][] = [[-142, -92], [24, -148], [196, 64]];

export function Meridians() {
  return (
    <svg className="meridians" viewBox="-320 -320 640 640" aria-hidden="true">
      <g className="meridians-lines">
        <circle r="300" />
        <path d="M0-300V300" />
        {LONGITUDES.map((rx) => (
          <ellipse key={rx} rx={rx} ry="300" />
        ))}
        {LATITUDES.map(({ y, rx }) => (
          <path key={y} d={`M${-rx} ${y}H${rx}`} />
        ))}
      </g>
      <g className="meridians-call">
        <path d="M-142-92Q-70-176 24-148Q150-110 196 64" />
        {POPS.map(([x, y]) => (
          <circle key={x} cx={x} cy={y} r="6" />
        ))}
      </g>
    </svg>
  );
}
